"""Environments on two nodes, one of which is lost."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest

from tests.rollout.faulty_env import FaultyEnv
from tests.support.ray import require_ray
from vpt_gym.rollout import RayVecEnv


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Ray's own stand-in for a cluster: two nodes of this machine."""
    require_ray()
    utils = pytest.importorskip("ray.cluster_utils")
    settings = {"num_cpus": 2, "object_store_memory": 100 * 2**20, "include_dashboard": False}
    cluster = utils.Cluster(initialize_head=True, head_node_args=settings)
    cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)
    cluster.wait_for_nodes()
    yield cluster
    cluster.shutdown()


@pytest.mark.timeout(300)
def test_a_lost_node_s_environments_begin_anew_elsewhere(cluster: Any) -> None:
    ray = require_ray()
    makers = [partial(FaultyEnv, number, length=10**6) for number in range(2)]
    try:
        venv = RayVecEnv(makers, cluster.address, backoff=0.01)
        head = cluster.head_node.node_id
        nodes = venv.nodes()
        assert len(set(nodes)) == 2
        assert head in nodes
        venv.reset()
        venv.step(np.zeros(2, int))
        (lost,) = cluster.worker_nodes
        cluster.remove_node(lost, allow_graceful=False)
        row, steps = 1 - nodes.index(head), 1
        while not venv.faults:  # the node's workers have some seconds left to notice that it is gone
            observations, rewards, dones, infos = venv.step(np.zeros(2, int))
            steps += 1
            assert rewards[1 - row] == 1.0
            assert observations[1 - row, 0, 0, 2] == steps % 256
            assert not dones[1 - row]
            assert "fault" not in infos[1 - row]
        assert dones[row]
        assert "its actor is gone" in infos[row]["fault"]
        assert venv.nodes() == [head, head]
        for step in (1, 2):
            assert venv.step(np.zeros(2, int))[0][row, 0, 0, 2] == step
        venv.close()
    finally:
        ray.shutdown()
