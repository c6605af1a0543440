# All that this module has is for `cimport`: see cython_attention.pxd beside the compiled module.
