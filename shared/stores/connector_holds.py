"""`connector_holds`: a lock in stripes between those who make jobs of a connector and who deletes it.

Two transactions that write different documents do not meet, so that counting a connector's jobs would not keep one from being
made meanwhile. Who makes a job writes one stripe, who deletes the connector writes all. Stripes, because jobs are made many
at a time; and not the connector's own document, because the limiter writes that hundreds of times a second.

Also: until when a deleted connector's limit is used up or its exchange has blocked us, for one made again under its id.
"""

import random
from datetime import datetime
from typing import Final

from pymongo import ASCENDING, UpdateOne
from pymongo.client_session import ClientSession

from shared.stores.database import Database

COLLECTION: Final = "connector_holds"
# Sixteen makers at once meet on one stripe in less than half of their tries, and each has five.
STRIPES: Final = 32


class ConnectorHolds:
    """Both sides of the lock. Each goes first in its transaction and holds until that ends; who meets the other tries again."""

    def __init__(self, database: Database) -> None:
        self._collection = database.collection(COLLECTION)

    def ensure_indexes(self) -> None:
        """There is only `_id`; naming it makes the collection, which a transaction should not have to."""
        self._collection.create_index([("_id", ASCENDING)])

    def share(self, connector_id: str, session: ClientSession) -> None:
        """The connector stays until the transaction ends."""
        stripe = random.randrange(STRIPES)
        self._collection.update_one({"_id": f"{connector_id}:{stripe}"}, {"$inc": {"count": 1}}, upsert=True, session=session)

    def leave(self, connector_id: str, held_until: datetime, session: ClientSession) -> None:
        """The connector is deleted; what it has sent counts at its exchange until then."""
        self._collection.update_one(
            {"_id": f"{connector_id}:deleted"}, {"$set": {"held_until": held_until}}, upsert=True, session=session
        )

    def find_left(self, connector_id: str, session: ClientSession) -> datetime | None:
        """Until when a deleted connector of that id holds the one that is made now; None: there was none."""
        document = self._collection.find_one({"_id": f"{connector_id}:deleted"}, session=session)
        held_until: datetime | None = document["held_until"] if document else None
        return held_until

    def exclude(self, connector_id: str, session: ClientSession) -> None:
        """No job of the connector is made until the transaction ends."""
        stripes = [
            UpdateOne({"_id": f"{connector_id}:{stripe}"}, {"$inc": {"count": 1}}, upsert=True) for stripe in range(STRIPES)
        ]
        self._collection.bulk_write(stripes, session=session)
