"""Ending one intercept of a run, while the run goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tpd.kube.access import open_cluster
from tpd.kube.attachments import delete_attachment
from tpd.run.intercept import daemon_of
from tpd.run.look import RunView, look
from tpd.run.seat import DRAIN_SECONDS
from tpd.run.state import RunRecord, SeatRecord, all_runs
from tpd_core.errors import UserError


@dataclass(frozen=True, slots=True)
class Held:
    """One intercept that a daemon on this computer has; `workload` as in "deployment/orders"."""

    record: RunRecord
    seat: SeatRecord
    uid: str
    namespace: str
    name: str
    workload: str


async def find_held(workload: str, namespace: str | None, use: str | None) -> Held:
    """The intercept that is meant.

    Args:
        workload: "orders", "deployment/orders", or the attachment's name.
        namespace: Where the workload is; None for anywhere.
        use: The run or connection that has it; None for any.

    Raises:
        UserError: There is none, or more than one.
    """
    views = await look([(directory, record) for directory, record in all_runs() if use in (None, record.id)])
    found = matching(views, workload, namespace)
    if not found:
        raise UserError(f"nothing here intercepts {workload!r}", hint="`tpd status` shows what is intercepted.")
    if len(found) > 1:
        listed = ", ".join(f"{held.workload} in {held.namespace} by {held.record.id}" for held in found)
        raise UserError(f"more than one intercept is called {workload!r}: {listed}", hint="Choose by -n and --use.")
    return found[0]


def matching(views: Sequence[RunView], workload: str, namespace: str | None) -> list[Held]:
    """All intercepts that a word may mean; daemons that do not answer have none."""
    kind, _, name = workload.rpartition("/")
    return [
        Held(view.record, seat.record, item.uid, item.namespace, item.name, item.workload)
        for view in views
        for seat in view.seats
        if seat.state is not None
        for item in seat.state.attachments
        if namespace in (None, item.namespace)
        and (
            item.name == workload
            or item.workload in (workload.lower(), f"{kind.lower()}/{name}")
            or (not kind and item.workload.rpartition("/")[2] == name)
        )
    ]


async def give_back(held: Held) -> None:
    """Give the traffic back and delete the object.

    Raises:
        TpdError: Daemon or cluster refused.
    """
    async with daemon_of(held.record, held.seat) as client:
        await client.detach(held.uid, DRAIN_SECONDS)
    async with open_cluster(held.record.kubeconfig, held.record.context) as (_, api):
        await delete_attachment(api, held.namespace, held.name)
