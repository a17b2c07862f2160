"""How the launchers of several nodes meet, and how each learns within seconds that another one's processes have ended.

Node 0's launcher listens; the others connect to it by its name in the headless service, and stay connected. What
torch's collectives notice of a dead node, they notice when they time out, often after half an hour; a broken connection
or a missing heartbeat here ends the attempt at once, on every node. The size of the world is decided here too, from the
nodes that came: a queue may have granted fewer than were asked for. Messages are JSON, one a line.
"""

import json
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from finetune_api import constants
from finetune_api.batch import nodes_that_train
from finetune_trainer.errors import BadConfiguration

PATIENCE_SECONDS = 1800.0  # for all nodes to come: their pods may wait for room, and meanwhile the others hold GPUs
SETTLE_SECONDS = 30.0  # after the last arrival, before fewer nodes than asked for begin
BEAT_SECONDS = 3.0
SILENCE_SECONDS = 30.0  # without a heartbeat: the other machine is gone, or stands still
RETRY_SECONDS = 0.3
MOST_RETRY_SECONDS = 2.0
MAX_LINE = 65_536


@dataclass(frozen=True)
class Place:
    """Where this node stands, and where it meets the others."""

    index: int
    nodes: int
    least: int
    processes: int
    total_batch: int
    leader: str  # node 0's host name
    port: int
    address: str  # this node's own
    run: str  # job and try: a launcher of another one is turned away
    service: str = ""  # the headless service, whose name lists all pods there are


@dataclass(frozen=True)
class Agreed:
    """The world that the nodes have agreed upon. first_rank: None for a node that is left over."""

    size: int
    nodes: int
    first_rank: int | None
    address: str
    port: int


@dataclass(frozen=True)
class NodeEnd:
    """How a node's processes have ended, as its launcher says."""

    node: int
    code: int
    reason: str
    message: str


def read_place(environment: Mapping[str, str], processes: int, total_batch: int) -> Place | None:
    """None for a job of one node. Raises BadConfiguration for an environment that the operator would not make."""
    nodes = int(environment.get(constants.ENV_NODES) or 1)
    if nodes <= 1:
        return None
    index, where = environment.get(constants.ENV_NODE_INDEX), environment.get(constants.ENV_RENDEZVOUS)
    if index is None or not where:
        raise BadConfiguration(
            f"{constants.ENV_NODES} is {nodes}, but {constants.ENV_NODE_INDEX} and {constants.ENV_RENDEZVOUS} do not "
            "say which node this is and where node 0 can be reached; the operator's Indexed Job sets them"
        )
    host, _, port = where.partition(":")
    return Place(
        index=int(index),
        nodes=nodes,
        least=int(environment.get(constants.ENV_MIN_NODES) or nodes),
        processes=processes,
        total_batch=total_batch,
        leader=host,
        port=int(port or constants.RENDEZVOUS_PORT),
        address=environment.get(constants.ENV_POD_IP) or "127.0.0.1",
        run=f"{environment.get(constants.ENV_JOB_UID, '')}/{environment.get(constants.ENV_ATTEMPT, '')}",
        service=host.partition(".")[2],
    )


class Peers:
    """This launcher's connection to the others. `wake` is called, from another thread, when there is news to look at:
    `agreed` or `refused`, then `stopping` (a node was told to stop), `first` (the node that failed or was lost first)
    and `ends`."""

    def __init__(self, place: Place, wake: Callable[[], None]) -> None:
        self.place = place
        self.agreed: Agreed | None = None
        self.refused: str | None = None
        self.stopping = False
        self.first: int | None = None
        self.lost: set[int] = set()
        self.ends: dict[int, NodeEnd] = {}
        self._wake = wake
        self._news = threading.Condition()
        self._links: dict[int, _Link] = {}
        self._last_arrival = time.monotonic()
        self._closed = False

    @property
    def leads(self) -> bool:
        return self.place.index == 0

    def start(self) -> None:
        """Begins to look for the others, in the background. Raises OSError if node 0 cannot listen."""
        if self.leads:
            family = _family(self.place.address)
            listener = socket.create_server((self.place.address, self.place.port), family=family, backlog=128)
            self._in_background(lambda: self._accept(listener))
        else:
            self._in_background(self._join)
        self._in_background(self._beat)

    def missing(self) -> list[int]:
        """The nodes that have not come yet, as node 0 sees it."""
        with self._news:
            return [node for node in range(1, self.place.nodes) if node not in self._links] if self.leads else []

    # --- what this node says ----------------------------------------------------------------------------------------

    def say_stopping(self) -> None:
        """This node was told to stop: the others shall write the checkpoint with it, not wait for it."""
        self._tell({"stopping": self.place.index})

    def say_failing(self) -> None:
        """A process of this node has failed; what it has to say follows with `finish`."""
        with self._news:
            self.first = self.place.index if self.first is None else self.first
        self._tell({"failing": self.place.index})

    def finish(self, end: NodeEnd) -> None:
        """This node's processes have ended."""
        with self._news:
            self.ends[end.node] = end
        self._tell({"end": asdict(end)})

    def wait_for_end_of(self, nodes: set[int], seconds: float) -> None:
        """Until each of the nodes has said how it ended, or was lost."""
        deadline = time.monotonic() + seconds
        with self._news:
            self._news.wait_for(lambda: nodes <= {*self.ends, *self.lost}, max(0.0, deadline - time.monotonic()))

    def close(self) -> None:
        with self._news:
            self._closed = True
            links = list(self._links.values())
        for link in links:
            link.close()

    def _tell(self, message: dict[str, Any], besides: int | None = None) -> None:
        with self._news:
            links = [link for node, link in self._links.items() if node != besides]
        for link in links:
            link.send(message)

    # --- meeting ----------------------------------------------------------------------------------------------------

    def _accept(self, listener: socket.socket) -> None:
        listener.settimeout(RETRY_SECONDS)
        self._decide()
        with listener:
            while not self._closed:
                try:
                    connection, _ = listener.accept()
                except TimeoutError:
                    self._decide()
                    continue
                except OSError:
                    return
                self._in_background(partial(self._welcome, connection))

    def _welcome(self, connection: socket.socket) -> None:
        """One other node, for as long as it is there."""
        link = _Link(connection)
        hello = link.read()
        if refusal := self._refusal(hello):
            link.send({"refused": refusal})
            link.close()
            return
        assert hello is not None
        node = int(hello["node"])
        with self._news:
            before, self._links[node] = self._links.get(node), link
            self._last_arrival = time.monotonic()
        if before is not None:
            before.close()
        self._decide()
        self._follow(node, link)

    def _refusal(self, hello: Any) -> str | None:
        place = self.place
        if not isinstance(hello, dict) or hello.get("run") != place.run or not isinstance(hello.get("node"), int):
            return "this is another job's rendezvous, or another try's"
        if self.agreed is not None:
            return f"the other {self.agreed.nodes} nodes have begun without this one"
        if not 0 < hello["node"] < place.nodes:
            return f"node {hello['node']} is not one of the {place.nodes}"
        if hello.get("processes") != place.processes:
            return f"node {hello['node']} has {hello.get('processes')} processes, node 0 has {place.processes}"
        return None

    def _decide(self) -> None:
        """On node 0: the world, once all nodes are there, or all that the queue has granted."""
        with self._news:
            here = len(self._links) + 1
            if self.agreed is not None or sorted(self._links) != list(range(1, here)) or here < self.place.least:
                return
            if here < self.place.nodes and not self._settled(here):
                return
            training = nodes_that_train(here, self.place.processes, self.place.total_batch)
            size, port = training * self.place.processes, _free_port(self.place.address)
            self.agreed = Agreed(size, training, 0, self.place.address, port)
            links = dict(self._links)
        for node, link in links.items():
            rank = node * self.place.processes if node < training else None
            link.send({"agreed": asdict(Agreed(size, training, rank, self.place.address, port))})
        self._wake()

    def _settled(self, here: int) -> bool:
        """Whether nobody else will come: pods have an address, which the service lists, long before they run."""
        if time.monotonic() - self._last_arrival < SETTLE_SECONDS:
            return False
        try:
            listed = {entry[4][0] for entry in socket.getaddrinfo(self.place.service, None)}
        except OSError:
            return True
        return len(listed) <= here

    def _join(self) -> None:
        """On another node: until node 0 can be reached, whose name may not be known yet."""
        place = self.place
        link, pause = None, RETRY_SECONDS
        while link is None and not self._closed:
            try:
                source = (place.address, 0)
                link = _Link(socket.create_connection((place.leader, place.port), 5, source_address=source))
            except OSError:
                time.sleep(pause)
                pause = min(2 * pause, MOST_RETRY_SECONDS)  # a thousand nodes may be asking the cluster's DNS
        if link is None:
            return
        with self._news:
            self._links[0] = link
        link.send({"run": place.run, "node": place.index, "processes": place.processes})
        self._follow(0, link)

    # --- what the others say ----------------------------------------------------------------------------------------

    def _follow(self, node: int, link: "_Link") -> None:
        while (message := link.read()) is not None:
            self._take(node, message)
        with self._news:
            gone = self._links.get(node) is link
            if gone:
                del self._links[node]
            begun, ended = self.agreed is not None, node in self.ends
        if not gone or self._closed or ended:
            return
        if begun:
            self._note_failure(node, lost=True)
            self._tell({"lost": node})
        elif not self.leads and self.refused is None:
            self._in_background(self._join)  # node 0's pod was replaced before all had met

    def _take(self, sender: int, message: Any) -> None:
        if not isinstance(message, dict) or "beat" in message:
            return
        if agreed := message.get("agreed"):
            self.agreed = Agreed(**agreed)
        elif refused := message.get("refused"):
            self.refused = str(refused)
        elif "stopping" in message:
            self.stopping = True
        elif "failing" in message or "lost" in message:
            lost = "lost" in message
            self._note_failure(int(message["lost" if lost else "failing"]), lost)
        elif end := message.get("end"):
            self._note_end(NodeEnd(**end))
        if self.leads and not message.keys().isdisjoint({"stopping", "failing", "end"}):
            self._tell(message, besides=sender)
        self._wake()

    def _note_failure(self, node: int, lost: bool) -> None:
        with self._news:
            self.first = node if self.first is None else self.first
            if lost:
                self.lost.add(node)
            self._news.notify_all()
        self._wake()

    def _note_end(self, end: NodeEnd) -> None:
        with self._news:
            self.ends[end.node] = end
            if end.code and self.first is None:
                self.first = end.node
            self._news.notify_all()

    def _beat(self) -> None:
        while not self._closed:
            time.sleep(BEAT_SECONDS)
            self._tell({"beat": 1})

    def _in_background(self, work: Callable[[], None]) -> None:
        threading.Thread(target=work, name="rendezvous", daemon=True).start()


@dataclass
class _Link:
    """One connection: JSON lines, and an end when the other side is silent for too long."""

    connection: socket.socket
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.connection.settimeout(SILENCE_SECONDS)
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._lines = self.connection.makefile("rb")

    def send(self, message: dict[str, Any]) -> None:
        """Nothing, if the other side is gone: whoever reads will notice."""
        try:
            with self._lock:
                self.connection.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            pass

    def read(self) -> Any:
        """The next message; None at the end."""
        try:
            line = self._lines.readline(MAX_LINE)
            return json.loads(line) if line.endswith(b"\n") else None
        except (OSError, ValueError):
            return None

    def close(self) -> None:
        try:
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.connection.close()


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _free_port(address: str) -> int:
    with socket.socket(_family(address)) as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])
