"""The kernels of regression and densities, a file each."""

from __future__ import annotations

from ._form import Form
from .boxcar import BOXCAR
from .epanechnikov import EPANECHNIKOV
from .gaussian import GAUSSIAN
from .triangular import TRIANGULAR

# The constant of kernel_regression has no integral, and is none of these.
FORMS: dict[str, Form] = {form.name: form for form in (GAUSSIAN, BOXCAR, EPANECHNIKOV, TRIANGULAR)}
