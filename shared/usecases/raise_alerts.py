"""Send the alerts that nobody has sent yet: a log line of severity ERROR each, and a POST to the webhook."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from shared.deadline import Deadline
from shared.errors import InvalidRequest
from shared.senders.alert_posts import AlertPosts
from shared.stores.alerts import AlertStore
from shared.telemetry import event
from shared.usecases.check_base_url import check_host

ALERTS_PER_CALL_MAX: Final = 50
# A sender that died with the alert in hand is followed by another after this; a dead webhook is tried this often.
RETRY_MS: Final = 60_000
TRIES_MAX: Final = 10


@dataclass(frozen=True, slots=True)
class AlertSender:
    """Called by the worker whose run failed for good, and by every tick for what was left behind."""

    alerts: AlertStore
    posts: AlertPosts
    hosts_allowed: Sequence[str]

    def send_pending(self, deadline: Deadline | None = None) -> int:
        """Send what is open and unsent, at least one; none is begun after the deadline. Returns how many."""
        sent = 0
        for number in range(ALERTS_PER_CALL_MAX):
            if number and deadline is not None and deadline.remaining_ms() <= 0:
                break
            alert = self.alerts.take_unsent(RETRY_MS, TRIES_MAX)
            if alert is None:
                break
            if alert["tries"] == 1:
                event("alert", "ERROR", message=alert["title"], alert_id=str(alert["_id"]), subject=alert["subject"])
            facts = {**alert["facts"], "subject": alert["subject"], "opened_at": alert["opened_at"].isoformat()}
            problem = self._post(alert["title"], _plain(facts))
            if problem is None:
                self.alerts.mark_sent(alert)
                sent += 1
            else:
                event("alert_not_sent", "WARNING", subject=alert["subject"], problem=problem, tries=alert["tries"])
        return sent

    def _post(self, title: str, facts: dict[str, object]) -> str | None:
        """None when it has arrived, else what is in the way; never the URL, which is a secret."""
        try:
            host = self.posts.host
            if host is not None:
                check_host(*host, self.hosts_allowed)
        except InvalidRequest:
            return "the webhook's host cannot be found or is not public; CHANDLER_HOSTS_ALLOWED can allow it"
        except ValueError:
            return "CHANDLER_ALERT_WEBHOOK_URL is no URL"
        return self.posts.post(title, facts)


def _plain(value: object) -> dict[str, object]:
    """Facts as JSON can carry them."""
    assert isinstance(value, dict)
    return {
        name: _plain(inner) if isinstance(inner, dict) else inner if isinstance(inner, str | int | float | None) else str(inner)
        for name, inner in value.items()
    }
