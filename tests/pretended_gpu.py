"""A GPU that any machine has: tensors that say `cuda:0` and calculate on the CPU.

    with PretendedGpu() as gpu:
        images = gpu.put(torch.rand(2, 3, 64, 64))
        outputs = gpu.put(model)(images)
    gpu.waits, gpu.copies          what a real one would have made the host wait for, or copy

An operation on tensors of both devices raises, as on a GPU. Backward passes do not run so: autograd
would ask for CUDA.
"""

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

#: What tells the host a value of the device, or how many values there are.
WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique")
CUDA = torch.device("cuda", 0)


class OnGpu(Tensor):
    """What a tensor on the pretended GPU is: the one on the CPU is in `inner`.

    To torch's own code it is a "meta" tensor, as its FakeTensor is, or that would look for CUDA.
    """

    @staticmethod
    def __new__(cls, inner: Tensor):
        return Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            inner.stride(),
            inner.storage_offset(),
            dtype=inner.dtype,
            device="meta",
            dispatch_device=True,
        )

    def __init__(self, inner: Tensor):
        self.inner = inner

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, op, types, args=(), kwargs=None):
        if op is torch.ops.prim.device.default:
            return CUDA
        raise AssertionError(f"{op} outside of the pretended GPU")


class PretendedGpu(TorchDispatchMode):
    """waits, copies: names of the operations that made the host wait, or copied from it."""

    _mode_key = torch._C._TorchDispatchModeKey.FAKE  # or torch would look for CUDA

    def __init__(self):
        super().__init__()
        if not torch.cuda.is_available():
            torch._C._ensureCUDADeviceGuardSet()  # one that asks no driver, as FakeTensorMode does
        self.waits, self.copies = [], []

    def __enter__(self):
        self.before = torch._C._only_lift_cpu_tensors()
        self.new_tensor = Tensor.new_tensor  # copies where no dispatch can see it
        Tensor.new_tensor = self._new_tensor()
        self.plain = torch.backends.cudnn.flags(enabled=False)  # it has no kernels for a CPU
        self.plain.__enter__()
        torch._C._set_only_lift_cpu_tensors(
            True
        )  # torch.tensor(list, device=...): made, then copied
        return super().__enter__()

    def __exit__(self, *error):
        Tensor.new_tensor = self.new_tensor
        torch._C._set_only_lift_cpu_tensors(self.before)
        self.plain.__exit__(*error)
        return super().__exit__(*error)

    def _new_tensor(self):
        gpu, plain = self, self.new_tensor

        def new_tensor(self, data, **options):
            if not isinstance(self, OnGpu):
                return plain(self, data, **options)
            gpu.copies.append("new_tensor")
            return OnGpu(plain(self.inner, data, **options))

        return new_tensor

    def put(self, thing):
        """A tensor, a module (in place), or what holds tensors, onto the GPU."""
        if isinstance(thing, nn.Module):
            for module in thing.modules():
                for name, value in (*module._parameters.items(), *module._buffers.items()):
                    if value is not None:
                        module._parameters.pop(name, None)
                        module._buffers[name] = OnGpu(value.detach())
            return thing
        return tree_map(lambda x: OnGpu(x) if isinstance(x, Tensor) else x, thing)

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        if op is torch.ops.prim.device.default:
            return CUDA
        kwargs = dict(kwargs or {})
        name, seen = op.overloadpacket.__name__, []
        tree_map(lambda x: seen.append(x) if isinstance(x, Tensor) else None, (args, kwargs))
        there = [x for x in seen if isinstance(x, OnGpu)]
        here = [x for x in seen if not isinstance(x, OnGpu) and x.ndim > 0]
        wanted = torch.device(kwargs["device"]) if kwargs.get("device") else None
        if wanted is not None and wanted.type == "cuda":
            kwargs["device"] = torch.device("cpu")
            self.copies += [name] if here or name == "lift_fresh" else []
        elif there and here:
            assert name == "copy_", f"{name} of tensors on the GPU and on the CPU"
            self.copies.append(name)
        masked = name == "index" and any(
            x is not None and x.dtype == torch.bool for x in args[1] or ()
        )
        if there and (name in WAITING or masked):
            self.waits.append(name)
        plain = tree_map(lambda x: x.inner if isinstance(x, OnGpu) else x, (args, kwargs))
        made = op(*plain[0], **plain[1])
        back = wanted is not None and wanted.type == "cpu"
        on_gpu = (there and not back) or (wanted is not None and wanted.type == "cuda")
        if op._schema.is_mutable and any(made is p for p in plain[0]):
            return args[[made is p for p in plain[0]].index(True)]
        return (
            tree_map(lambda x: OnGpu(x) if isinstance(x, Tensor) else x, made) if on_gpu else made
        )
