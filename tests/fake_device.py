"""A device that is none: tensors that compute on the processor, and refuse what a GPU's tensors refuse.

Its name is torch's "meta", the one device besides the processor on which a torch without a driver differentiates. Here
its tensors have values. What CUDA refuses is refused: operations that mix devices (but for a scalar among elementwise
ones), numpy, a generator of another device. What makes a host wait for CUDA is counted: values that are read, results
whose size depends on values, and blocking copies in either direction. A copy to pinned memory is under way until an
event behind it has come (`FakeDevice.cuda`): whoever reads too early reads no numbers.

Not seen: what kernels do within themselves, autocast, which dtypes a kernel exists for, and other uses of streams.
"""

from __future__ import annotations

import copy
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

__all__ = ["DEVICE", "KIND", "AnyGenerator", "DeviceTensor", "FakeDevice", "fake_device"]

KIND = "meta"
DEVICE = torch.device(KIND)
CPU = torch.device("cpu")
aten = torch.ops.aten
READS = {
    aten._local_scalar_dense.default,  # item, float, int, bool, a number in a text
    aten.is_nonzero.default,
    aten.equal.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten.bincount.default,
    aten.unique_dim.default,
    aten._unique2.default,
    aten.unique_consecutive.default,
    aten._linalg_check_errors.default,
}
COPIES = {aten._to_copy.default, aten.copy_.default}
INDEXED = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default}
TAKES_SCALARS = ("_foreach_", "fill_", "masked_fill", "index_put")  # of the processor, besides elementwise operations
MAKERS = {"tensor", "as_tensor", "asarray"}  # functions that fill a tensor on the host


class DeviceTensor(torch.Tensor):
    """A tensor on the device; `values` is where it is computed."""

    values: torch.Tensor
    is_meta = False  # meta tensors are those without values, and torch skips them
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, values: torch.Tensor, requires_grad: bool = False) -> DeviceTensor:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            values.shape,
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device=DEVICE,
            requires_grad=requires_grad,
        )
        made.values = values.detach()
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(FakeDevice.current(), func, args, kwargs or {})

    @property
    def data(self) -> Any:
        return torch.Tensor.data.__get__(self)

    @data.setter
    def data(self, new: Any) -> None:
        torch.Tensor.data.__set__(self, new)
        self.values = new.values

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if id(self) not in memo:
            made = DeviceTensor(self.values.clone(), self.requires_grad)
            if hasattr(self, "_is_param"):
                made._is_param = self._is_param
            made.__dict__ |= {
                k: copy.deepcopy(v, memo) for k, v in vars(self).items() if k not in ("values", "_is_param")
            }
            memo[id(self)] = made
        return memo[id(self)]

    def __reduce_ex__(self, protocol: Any) -> Any:
        FakeDevice.current().note("saved")
        return self.values.__reduce_ex__(protocol)

    def __repr__(self, **_: Any) -> str:
        FakeDevice.current().note("shown")
        if self.grad_fn is not None:
            return f"{repr(self.values)[:-1]}, grad_fn=<{type(self.grad_fn).__name__}>)"
        return repr(self.values.detach().requires_grad_(self.requires_grad))

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if self.dim() == 0 else repr(self)


class DeviceGenerator(torch.Generator):
    """A generator of the device."""

    device = DEVICE


class AnyGenerator(type):
    """What `torch.Generator` is while the device is there: it makes one of the device where that is asked for."""

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, _TorchGenerator)

    default = staticmethod(lambda: "cpu")

    def __call__(cls, device: Any = None) -> Any:
        device = AnyGenerator.default() if device is None else device
        return DeviceGenerator() if torch.device(device).type == KIND else _TorchGenerator(device)


_TorchGenerator = torch.Generator


class _Generator(metaclass=AnyGenerator):
    """Stands for `torch.Generator`."""


class _Copy:
    """A copy to pinned memory that is under way, and whether the device's stream reads only behind it."""

    def __init__(self, host: torch.Tensor, values: torch.Tensor) -> None:
        self.host, self.values, self.ordered = host, values, False


class FakeDevice:
    """The device while it is there; `waits` says what made the host wait, and in which line of which file."""

    _there: ClassVar[list[FakeDevice]] = []

    def __init__(self) -> None:
        self.waits: Counter[str] = Counter()
        self.generator = torch.Generator().manual_seed(0)
        self.operations = 0
        self._pinned: dict[int, torch.Tensor] = {}
        self._under_way: list[_Copy] = []

    @property
    def cuda(self) -> Any:
        """What `torch.cuda` is to pinned memory: events, and a stream that has no order but by events."""

        class Event:
            def record(event, stream: Any) -> None:
                event.before = list(self._under_way)

            def synchronize(event) -> None:
                self._arrive(event.before)

        def wait_event(event: Any) -> None:
            for copied in event.before:
                copied.ordered = True

        return SimpleNamespace(Event=Event, current_stream=lambda device: SimpleNamespace(wait_event=wait_event))

    def pin(self, tensor: torch.Tensor) -> torch.Tensor:
        """Let copies to a tensor of the processor be under way for a while."""
        self._pinned[id(tensor)] = tensor
        return tensor

    def queue(self, host: Any, source: Any, non_blocking: bool) -> bool:
        """Return True if a copy has been queued that ends later, as one to pinned memory does."""
        if not (non_blocking and isinstance(source, DeviceTensor) and id(host) in self._pinned):
            return False
        self._under_way.append(_Copy(host, source.values.clone()))
        host.fill_(float("nan"))
        return True

    def seen_by_device(self, host: torch.Tensor) -> torch.Tensor:
        """Return what a copy to the device reads of a tensor of the processor."""
        return next((c.values for c in self._under_way if c.host is host and c.ordered), host)

    def _arrive(self, copies: list[_Copy]) -> None:
        for copied in copies:
            copied.host.copy_(copied.values)
        self._under_way = [c for c in self._under_way if c not in copies]

    @classmethod
    def current(cls) -> FakeDevice:
        return cls._there[-1] if cls._there else cls()

    def note(self, what: str) -> None:
        frames = [f for f in traceback.extract_stack() if "lightning" in f.filename or "torch/optim" in f.filename]
        frames = [f for f in frames if "fake_device" not in f.filename]
        at = f"{'/'.join(frames[-1].filename.split('/')[-2:])}:{frames[-1].lineno}" if frames else "elsewhere"
        self.waits[f"{what} at {at}"] += 1

    @contextmanager
    def counted(self) -> Iterator[Counter[str]]:
        """Yield a counter of the waits inside."""
        before, found = Counter(self.waits), Counter[str]()
        try:
            yield found
        finally:
            found.update(self.waits - before)

    def _module(self) -> Any:
        """What `torch.cuda` is to CUDA, as far as random numbers go."""
        return SimpleNamespace(
            get_rng_state=lambda *_: self.generator.get_state(),
            set_rng_state=lambda state, *_: self.generator.set_state(state),
            manual_seed=self.generator.manual_seed,
            device=lambda *_: nullcontext(),
        )


@contextmanager
def fake_device() -> Iterator[FakeDevice]:
    """Let the device be there, within this thread."""
    device, missing = FakeDevice(), object()
    enabled, autocast = torch.is_autocast_enabled, torch.autocast
    replaced = {
        "meta": device._module(),
        "Generator": _Generator,
        "is_autocast_enabled": lambda *kind: kind[:1] != (KIND,) and enabled(*kind),
        "autocast": lambda kind, *a, **k: nullcontext() if kind == KIND else autocast(kind, *a, **k),
    }
    before = {name: getattr(torch, name, missing) for name in replaced}
    FakeDevice._there.append(device)
    for name, value in replaced.items():
        setattr(torch, name, value)
    try:
        with _Dispatch(device), _Functions(device):
            yield device
    finally:
        for name, value in before.items():
            delattr(torch, name) if value is missing else setattr(torch, name, value)
        FakeDevice._there.remove(device)


class _Dispatch(TorchDispatchMode):
    def __init__(self, device: FakeDevice) -> None:
        super().__init__()
        self.device = device

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(self.device, func, args, kwargs or {})


class _Functions(TorchFunctionMode):
    """What does not reach the dispatcher, or reaches it as an operation of torch's own meta device."""

    def __init__(self, device: FakeDevice) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name, kwargs = getattr(func, "__name__", ""), dict(kwargs or {})
        if name == "tolist" and isinstance(args[0], DeviceTensor):
            self.device.note("tolist")
            return args[0].values.tolist()
        if name in ("numpy", "__array__") and isinstance(args[0], DeviceTensor):
            raise TypeError(f"can't convert {KIND} device type tensor to numpy. Use Tensor.cpu() first")
        if name in ("__getitem__", "__setitem__") and isinstance(args[0], DeviceTensor):
            args = (
                args[0],
                *(_uploaded(each) for each in args[1:]),
            )  # lists, which torch's own meta device leaves empty
        if name == "new_tensor":
            kwargs.setdefault("device", args[0].device)
            kwargs.setdefault("dtype", args[0].dtype)
            func, args, name = torch.tensor, args[1:], "tensor"
        if name == "empty_like" and kwargs.pop("pin_memory", False):
            return self.device.pin(func(*args, **kwargs))
        wanted = kwargs.get("device")
        if (generator := kwargs.get("generator")) is not None:  # below it is another object
            drawn = args[0] if args and isinstance(args[0], torch.Tensor) else SimpleNamespace(device=CPU)
            kind = torch.device(drawn.device if wanted is None else wanted).type
            if isinstance(generator, DeviceGenerator) != (kind == KIND):
                raise RuntimeError(f"Expected a '{kind}' device type for generator but found '{generator.device.type}'")
        if name in MAKERS and wanted is not None and torch.device(wanted).type == KIND:
            if isinstance(args[0], torch.Tensor) and name != "tensor":
                return args[0].to(DEVICE, kwargs.get("dtype"))
            return func(*args, **(kwargs | {"device": CPU})).to(DEVICE)
        return func(*args, **kwargs)


def _uploaded(index: Any) -> Any:
    if isinstance(index, tuple):
        return tuple(_uploaded(each) for each in index)
    return torch.tensor(index).to(DEVICE) if isinstance(index, (list, range)) else index


def _run(device: FakeDevice, func: Any, args: Any, kwargs: Any) -> Any:
    """Compute on the processor what runs on the device, or refuse it."""
    flat = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
    ours = [x for x in flat if isinstance(x, DeviceTensor)]
    theirs = [x for x in flat if not isinstance(x, DeviceTensor)]
    wanted = kwargs.get("device")
    onto = wanted is not None and torch.device(wanted).type == KIND
    if not ours and not onto:
        return func(*args, **kwargs)
    device.operations += 1
    if func is aten.copy_.default and device.queue(args[0], args[1], args[2] if len(args) > 2 else False):
        return args[0]
    if func is aten._to_copy.default and not ours:
        args = (device.seen_by_device(args[0]), *args[1:])
    if func in COPIES:
        _note_copy(device, func, args, kwargs, wanted)
    elif ours:
        _check_mixture(device, func, ours, theirs, args)
        if func in READS or _by_truth(func, args):
            device.note(str(func))
    owner = {id(x.values): x for x in ours}
    inner, named = tree_map(lambda x: x.values if isinstance(x, DeviceTensor) else x, (args, kwargs))
    if wanted is not None:
        named["device"] = CPU
    if (
        func is aten._efficientzerotensor.default
    ):  # tensors without memory, for tangents; kernels below cannot read them
        func = aten.zeros.default
    if func is aten._to_copy.default:
        named.pop("non_blocking", None)
    with _drawing(device, func, kwargs.get("generator")):
        out = func(*inner, **named)
    stays = wanted is not None and not onto  # made for the processor
    stays |= func is aten.copy_.default and not isinstance(args[0], DeviceTensor)

    def outer(x: Any) -> Any:
        if not isinstance(x, torch.Tensor) or stays:
            return x.clone() if stays and id(x) in owner else x
        if (known := owner.get(id(x))) is None:
            return DeviceTensor(x)
        if known.shape != x.shape or known.stride() != x.stride():  # as after squeeze_
            with torch._C._DisableTorchDispatch():
                func(*args, **kwargs)  # by torch's own meta device, which has shapes
        return known

    if func is aten._to_copy.default and any(out is x.values for x in ours):
        out = out.clone()
    return tree_map(outer, out)


def _check_mixture(device: FakeDevice, func: Any, ours: list[Any], theirs: list[Any], args: Any) -> None:
    name = func._schema.name.removeprefix("aten::")
    if func in INDEXED:
        indices = [x for x in args[1] if isinstance(x, torch.Tensor) and not isinstance(x, DeviceTensor)]
        if indices and isinstance(args[0], DeviceTensor):
            device.note(f"an index of the processor in {func}")
            theirs = [x for x in theirs if not any(x is index for index in indices)]
    scalars = torch.Tag.pointwise in func.tags or name.startswith(TAKES_SCALARS)
    if any(x.dim() or not scalars for x in theirs):
        raise RuntimeError(f"Expected all tensors to be on the same device, but got {KIND} and cpu in {func}")


def _note_copy(device: FakeDevice, func: Any, args: Any, kwargs: Any, wanted: Any) -> None:
    if func is aten.copy_.default:
        to, source = isinstance(args[0], DeviceTensor), isinstance(args[1], DeviceTensor)
        waits = not (args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
    else:
        source = isinstance(args[0], DeviceTensor)
        to = source if wanted is None else torch.device(wanted).type == KIND
        waits = not kwargs.get("non_blocking", False)
    if source and not to:
        device.note("copied to the host")
    elif to and not source and waits:
        device.note("copied to the device")


def _by_truth(func: Any, args: Any) -> bool:
    if func not in INDEXED or not any(
        isinstance(i, torch.Tensor) and i.dtype in (torch.bool, torch.uint8) for i in args[1]
    ):
        return False
    return func is aten.index.Tensor or args[2].numel() != 1  # one number is filled in by the mask


@contextmanager
def _drawing(device: FakeDevice, func: Any, generator: Any) -> Iterator[None]:
    """Draw from the device's own generator where no other is named."""
    if generator is not None or torch.Tag.nondeterministic_seeded not in func.tags:
        yield
        return
    outside = torch.get_rng_state()
    torch.set_rng_state(device.generator.get_state())
    try:
        yield
    finally:
        device.generator.set_state(torch.get_rng_state())
        torch.set_rng_state(outside)
