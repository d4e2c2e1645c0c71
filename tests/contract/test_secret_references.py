"""`sm://` references, read by Google's own client from a server that speaks Secret Manager's gRPC."""

from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest
from google.cloud.secretmanager_v1 import (
    AccessSecretVersionRequest,
    AccessSecretVersionResponse,
    SecretManagerServiceClient,
    SecretPayload,
)
from google.cloud.secretmanager_v1.services.secret_manager_service.transports import SecretManagerServiceGrpcTransport

from shared.errors import ConfigurationError
from shared.secret_references import resolve_reference

SECRETS = {"projects/p/secrets/s/versions/7": b"the value\n", "projects/p/secrets/s/versions/latest": b"the newest"}


def access(request: AccessSecretVersionRequest, context: grpc.ServicerContext) -> AccessSecretVersionResponse:
    if request.name not in SECRETS:
        context.abort(grpc.StatusCode.NOT_FOUND, "no such secret")
    return AccessSecretVersionResponse(name=request.name, payload=SecretPayload(data=SECRETS[request.name]))


@pytest.fixture(scope="module")
def client() -> Iterator[SecretManagerServiceClient]:
    method = grpc.unary_unary_rpc_method_handler(
        access,
        request_deserializer=AccessSecretVersionRequest.deserialize,
        response_serializer=AccessSecretVersionResponse.serialize,
    )
    handlers: dict[str, Any] = {"AccessSecretVersion": method}
    server = grpc.server(futures.ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("google.cloud.secretmanager.v1.SecretManagerService", handlers),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield SecretManagerServiceClient(transport=SecretManagerServiceGrpcTransport(channel=channel))
    server.stop(0)


def test_a_reference_is_read_without_its_trailing_newline(client: SecretManagerServiceClient) -> None:
    assert resolve_reference("sm://p/s/7", client) == "the value"
    assert resolve_reference("sm://p/s", client) == "the newest"


def test_a_secret_that_cannot_be_read_is_named(client: SecretManagerServiceClient) -> None:
    with pytest.raises(ConfigurationError, match="cannot read sm://p/other/1"):
        resolve_reference("sm://p/other/1", client)
