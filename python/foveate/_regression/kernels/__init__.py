"""The kernels of regression and densities, a file each."""

from __future__ import annotations

from ._form import Form
from .biweight import BIWEIGHT
from .boxcar import BOXCAR
from .cosine import COSINE
from .epanechnikov import EPANECHNIKOV
from .exponential import EXPONENTIAL
from .gaussian import GAUSSIAN
from .triangular import TRIANGULAR
from .tricube import TRICUBE
from .triweight import TRIWEIGHT

__all__ = ["FORMS", "Form", "is_softmax"]

# The constant of kernel_regression has no integral, and is none of these.
FORMS: dict[str, Form] = {
    form.name: form
    for form in (
        *(GAUSSIAN, EXPONENTIAL),
        *(BOXCAR, EPANECHNIKOV, TRIANGULAR, BIWEIGHT, TRIWEIGHT, TRICUBE, COSINE),
    )
}


def is_softmax(kernel: str) -> bool:
    """Whether a kernel of `kernel_regression` is a softmax, so that it is 0 nowhere."""
    return kernel in FORMS and FORMS[kernel].is_softmax
