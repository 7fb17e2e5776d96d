"""May this attachment be made at all? Asked of the API server, remembered for a short while."""

from __future__ import annotations

from collections.abc import Callable

from tpd_cluster.manager.model import Attachment, Object, Problem
from tpd_core.errors import Category
from tpd_core.kube import ApiClient
from tpd_core.kube.paths import SUBJECT_ACCESS_REVIEWS

_ALLOWED_FOR = 300.0  # seconds
_DENIED_FOR = 15.0


class Rights:
    """Checks an attachment's user.

    Args:
        require_exec: The right to `pods/exec` is needed: an attachment gives as much.
        namespaces: Where agents may be injected; empty for everywhere.
        monotonic: Seconds.
    """

    def __init__(
        self,
        client: ApiClient,
        *,
        require_exec: bool,
        namespaces: tuple[str, ...],
        monotonic: Callable[[], float],
    ) -> None:
        self._client = client
        self._require_exec = require_exec
        self._namespaces = namespaces
        self._monotonic = monotonic
        self._answers: dict[str, tuple[float, Problem | None]] = {}

    async def check(self, attachment: Attachment, session: Object | None) -> Problem | None:
        """Why not, or None."""
        problem = self.check_session(attachment, session)
        if problem is not None or session is None or not self._require_exec:
            return problem
        known = self._answers.get(attachment.uid)
        now = self._monotonic()
        if known is None or now >= known[0]:
            answer = await self._may_exec(attachment, session)
            known = (now + (_DENIED_FOR if answer else _ALLOWED_FOR), answer)
            self._answers[attachment.uid] = known
        return known[1]

    def forget(self, uid: str) -> None:
        """The attachment is gone."""
        self._answers.pop(uid, None)

    def check_session(self, attachment: Attachment, session: Object | None) -> Problem | None:
        """What can be said without asking."""
        if self._namespaces and attachment.namespace not in self._namespaces:
            return Problem(
                Category.CONFIG,
                f"The manager may not put agents into namespace {attachment.namespace}",
                hint=f"It may in: {', '.join(self._namespaces)} (chart value agent.namespaces).",
            )
        if session is None:
            return Problem(
                Category.USER,
                f"Session {attachment.session} of attachment {attachment.name} does not exist",
                hint="It was deleted or has timed out: start again.",
            )
        if session["spec"]["user"] != attachment.user:
            return Problem(
                Category.USER,
                f"Session {attachment.session} belongs to {session['spec']['user']}, not to {attachment.user}",
            )
        return None

    async def _may_exec(self, attachment: Attachment, session: Object) -> Problem | None:
        review = {
            "spec": {
                "user": attachment.user,
                "groups": session["spec"].get("groups") or [],
                "resourceAttributes": {
                    "namespace": attachment.namespace,
                    "verb": "create",
                    "resource": "pods",
                    "subresource": "exec",
                },
            }
        }
        status = (await self._client.create(SUBJECT_ACCESS_REVIEWS.path(), review)).get("status") or {}
        if status.get("allowed"):
            return None
        return Problem(
            Category.CLUSTER,
            f"{attachment.user} may not create pods/exec in namespace {attachment.namespace}, "
            "and an attachment gives as much",
            hint="Ask for that right, or for the chart value requireExec=false.",
        )
