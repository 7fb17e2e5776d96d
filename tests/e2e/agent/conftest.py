"""The agent's own end-to-end tests: a daemon of few lines against the real manager and real agents."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.e2e.support.cluster import Cluster
from tests.e2e.support.linkclient import Session, api, open_session


@pytest.fixture
async def session(cluster: Cluster, manager: None) -> AsyncIterator[Session]:
    async with api(cluster.kubeconfig) as client:
        made = await open_session(client)
        yield made
        await made.delete()
