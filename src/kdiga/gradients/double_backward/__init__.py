"""Double backprop at two plain steps: operations whose second derivative is made of the kernels of the first."""

from kdiga.gradients.double_backward.mode import fast_double_backward, pytorch_double_backward

__all__ = ["fast_double_backward", "pytorch_double_backward"]
