"""What the ranks of a ring tell each other: what they were asked for, and tensors on their way."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

# The first message of each call, of one size, so that it arrives whatever the ranks disagree on.
_HEADER_BYTES = 2048
_MESSAGE = 1000  # characters of an error that are told to the other ranks

# Tags of messages between the same two ranks, which arrive in the order in which they are sent.
ROWS, GRADIENTS, HOME = 7001, 7002, 7003


def group_of(caller: str, group: Any) -> tuple[Any, int, int]:
    """Return a group of processes, the rank in it, and how many there are.

    Raises
    ------
    RuntimeError
        Where torch.distributed is not there, or was not told of other processes.
    TypeError, ValueError
        For anything but a group, and for one that this process is not in.
    """
    if not (dist.is_available() and dist.is_initialized()):
        raise RuntimeError(
            f"foveate.torch.{caller}: torch.distributed knows no other processes, wanted "
            "torch.distributed.init_process_group before"
        )
    if group is None:
        group = dist.group.WORLD
    from torch.distributed.device_mesh import DeviceMesh

    if isinstance(group, DeviceMesh) and group.ndim == 1:
        group = group.get_group()
    if not isinstance(group, dist.ProcessGroup):
        if group is dist.GroupMember.NON_GROUP_MEMBER:
            raise ValueError("group: got a group that this process is not in")
        raise TypeError(
            f"group: got {type(group).__name__}, wanted a torch.distributed.ProcessGroup, "
            "a DeviceMesh of one axis, or None"
        )
    return group, group.rank(), group.size()


def agree(
    caller: str, group: Any, told: dict[str, Any] | BaseException, alone: Sequence[str]
) -> list[dict[str, Any]]:
    """Tell all ranks what this one was asked for, and hear the same of them.

    Parameters
    ----------
    caller : str
    group : ProcessGroup
    told : dict, or exception
        What json can hold; or why this rank cannot go on, which is raised here, and told there.
    alone : sequence of str
        The keys of what may differ between the ranks.

    Raises
    ------
    ValueError
        On all ranks, for what differs.
    RuntimeError
        Where another rank cannot go on, or is not there.
    """
    rank = group.rank()
    if isinstance(told, BaseException):
        words = f"{type(told).__name__}: {told}"[:_MESSAGE]
        own: dict[str, Any] = {"error": words}
    else:
        own = told
    text = json.dumps(own).encode()
    if len(text) > _HEADER_BYTES:  # a message of letters that take six bytes each
        text = json.dumps({"error": own["error"][: _MESSAGE // 6]}).encode()
    sent = torch.tensor([*text.ljust(_HEADER_BYTES)], dtype=torch.uint8, device="cpu")
    heard = [torch.empty_like(sent) for _ in range(group.size())]
    try:
        dist.all_gather(heard, sent, group=group)
    except RuntimeError as error:
        if isinstance(told, BaseException):
            raise told from error
        raise lost(caller, "a rank of the group did not answer", error) from error
    if isinstance(told, BaseException):
        raise told
    all_told: list[dict[str, Any]] = [json.loads(bytes(x.tolist())) for x in heard]
    for n, one in enumerate(all_told):
        if "error" in one:
            raise RuntimeError(f"foveate.torch.{caller}: rank {n} of the group: {one['error']}")
    for name in own:
        if name in alone:
            continue
        for n, one in enumerate(all_told):
            if one[name] != all_told[0][name]:
                raise ValueError(
                    f"{name}: got {all_told[0][name]} on rank 0 and {one[name]} on rank {n} of the "
                    f"group (here rank {rank}), wanted the same on all"
                )
    return all_told


def lost(caller: str, what: str, error: BaseException) -> RuntimeError:
    """Make the error of a rank that is not there any more, or does something else."""
    return RuntimeError(f"foveate.torch.{caller}: {what} ({error})")


class Arrival:
    """A tensor on its way from another rank."""

    def __init__(self, tensor: Tensor, work: Any, caller: str, rank: int) -> None:
        """Remember where it comes from."""
        self._tensor, self._work, self._caller, self._rank = tensor, work, caller, rank

    def wait(self) -> Tensor:
        """Return it when it is there.

        Raises
        ------
        RuntimeError
            After the timeout of the group, or as soon as the connection is lost.
        """
        try:
            self._work.wait()
        except RuntimeError as error:
            what = f"rank {self._rank} of the group sent nothing"
            raise lost(self._caller, what, error) from error
        return self._tensor


class Courier:
    """Sends and receives tensors while something else is computed."""

    def __init__(self, caller: str, group: Any) -> None:
        """Send to the ranks of a group."""
        self._caller, self._group = caller, group
        self._sent: list[tuple[int, Any, Tensor, int]] = []

    def send(self, tensor: Tensor, to: int, tag: int, due: int) -> None:
        """Send a contiguous tensor, which may not change until it has arrived.

        That is certain after `finish`, and after `wait_until` the step at which it is due.

        Raises
        ------
        RuntimeError
            As for `finish`.
        """
        if not tensor.numel():
            return
        try:
            work = dist.isend(_bytes(tensor), group=self._group, group_dst=to, tag=tag)
        except RuntimeError as error:
            raise lost(self._caller, f"rank {to} of the group takes nothing", error) from error
        self._sent.append((due, work, tensor, to))

    def receive(self, count: int, dtype: torch.dtype, source: int, tag: int) -> Arrival:
        """Receive so many numbers.

        Raises
        ------
        RuntimeError
            Where the connection is lost.
        """
        tensor = torch.empty(count, dtype=dtype, device="cpu")
        if not count:
            return Arrival(tensor, _Done, self._caller, source)
        try:
            work = dist.irecv(_bytes(tensor), group=self._group, group_src=source, tag=tag)
        except RuntimeError as error:
            raise lost(self._caller, f"rank {source} of the group is lost", error) from error
        return Arrival(tensor, work, self._caller, source)

    def finish(self) -> None:
        """Wait until all that was sent has arrived.

        Raises
        ------
        RuntimeError
            After the timeout of the group, or as soon as the connection is lost.
        """
        self.wait_until(None)

    def wait_until(self, step: int | None) -> None:
        """Let go of what is due by a step. Waiting for more could be waiting for each other.

        Raises
        ------
        RuntimeError
            As `finish`.
        """
        rest = []
        for one in self._sent:
            due, work, _, to = one
            if step is not None and due > step:
                rest.append(one)
                continue
            try:
                work.wait()
            except RuntimeError as error:
                what = f"rank {to} of the group took nothing"
                raise lost(self._caller, what, error) from error
        self._sent = rest


class _Done:
    @staticmethod
    def wait() -> None:
        """Be there already."""


def _bytes(tensor: Tensor) -> Tensor:
    """Give the memory of a contiguous tensor: messages have no dtype."""
    return tensor.view(torch.uint8)
