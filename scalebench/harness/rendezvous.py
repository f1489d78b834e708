"""The elastic agent's meeting with other agents, where there is only one: nobody to wait for, nothing that listens.

torch's own rendezvous first sleeps at random for up to 0.3 s, so that the agents of a cluster do not come all at once,
and then keeps a heartbeat. Ours is registered under `BACKEND`, as torch documents it for handlers of one's own.
"""

from __future__ import annotations

from torch.distributed import HashStore  # type: ignore[attr-defined]  # public, though not in __all__
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    rendezvous_handler_registry,
)

BACKEND = "scalebench-lone-agent"
LOOPBACK_ADDRESS = "127.0.0.1"


class LoneAgent(RendezvousHandler):
    """A group of one agent, complete as soon as it is asked for."""

    def __init__(self, parameters: RendezvousParameters) -> None:
        self._run_id = parameters.run_id

    def next_rendezvous(self) -> RendezvousInfo:
        """Rank 0 of 1, with a store in this process. The ranks get an address and a free port, as torchrun's do."""
        store = HashStore()
        return RendezvousInfo(store, 0, 1, RendezvousStoreInfo.build(0, store, LOOPBACK_ADDRESS))

    def get_backend(self) -> str:
        return BACKEND

    def get_run_id(self) -> str:
        return self._run_id

    def is_closed(self) -> bool:
        return False

    def set_closed(self) -> None: ...

    def num_nodes_waiting(self) -> int:
        return 0

    def shutdown(self) -> bool:
        return True


rendezvous_handler_registry.register(BACKEND, LoneAgent)
