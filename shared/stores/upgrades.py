"""`upgrades`: how far a database of an earlier version has been brought over; one document for each thing that was."""

from dataclasses import dataclass
from typing import Final

from shared.stores.database import Database

COLLECTION: Final = "upgrades"


@dataclass(frozen=True, slots=True)
class Upgrade:
    """To which version, up to which key in their order, and whether that was all."""

    version: str
    after: str
    is_done: bool


class UpgradeStore:
    """By name of what is brought over."""

    def __init__(self, database: Database) -> None:
        self._collection = database.collection(COLLECTION)

    def read(self, name: str) -> Upgrade | None:
        """None: nothing is known, so all is as the first version left it."""
        document = self._collection.find_one({"_id": name})
        return None if document is None else Upgrade(document["version"], document["after"], document["is_done"])

    def write(self, name: str, upgrade: Upgrade) -> None:
        """Note how far it is. Of two at once the later one counts: each of them has done what it says."""
        fields = {"version": upgrade.version, "after": upgrade.after, "is_done": upgrade.is_done}
        self._collection.update_one({"_id": name}, {"$set": fields, "$currentDate": {"updated_at": True}}, upsert=True)
