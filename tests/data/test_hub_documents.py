"""A stream of the hub goes on at the same document when the connection is lost, and gives up in the end."""

import pytest

from carbs_scaling.data import hub_documents
from carbs_scaling.data.hub_documents import HubDocuments
from carbs_scaling.errors import DataError


class Rows:
    """A streamed data set of ten documents whose connection breaks."""

    def __init__(self, breaks_before: list[int]) -> None:
        self.next, self.breaks_before = 0, breaks_before

    def __iter__(self):
        while self.next < 10:
            if self.breaks_before and self.next == self.breaks_before[0]:
                del self.breaks_before[0]
                raise ConnectionError("Server Disconnected")
            self.next += 1
            yield {"text": f"document {self.next - 1}"}

    def state_dict(self) -> dict:
        return {"next": self.next}

    def load_state_dict(self, state: dict) -> None:
        self.next = state["next"]


@pytest.fixture
def documents(data_config, tmp_path, monkeypatch):
    """The documents of such a data set, and how long they waited."""
    waited: list[float] = []
    monkeypatch.setattr(hub_documents.time, "sleep", waited.append)
    monkeypatch.setattr("carbs_scaling.data.hub.hub_in_reach", lambda: True)

    def build(breaks_before: list[int]) -> tuple[HubDocuments, list[float]]:
        config = data_config(source="hub", name="some/text", streaming=True)
        documents = HubDocuments(config, "train", tmp_path, None)
        monkeypatch.setattr(documents, "_open", lambda: Rows(breaks_before))
        return documents, waited

    return build


def test_a_lost_connection_costs_no_document(documents):
    some, waited = documents([3, 3, 3, 7])
    assert list(some) == [f"document {i}" for i in range(10)]
    assert waited == [1, 2, 4, 1]  # the wait begins anew after a document
    assert some.place() == {"rows": {"next": 10}}


def test_a_hub_that_stays_away_is_given_up(documents):
    some, waited = documents([3] * 100)
    with pytest.raises(DataError, match="cannot be reached"):
        list(some)
    assert 600 <= sum(waited) < 1300
    assert some.place() == {"rows": {"next": 3}}
