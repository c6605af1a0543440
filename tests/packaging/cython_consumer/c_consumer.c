/* A user of foveate/python.h: an extension module in C. attention(query, key, value, out) of float32 matrices. */
#define PY_SSIZE_T_CLEAN
#include <foveate/python.h>

static const fv_api* api;

/* A view of a matrix for as long as the buffer is held; 0, with an exception, where it is none. */
static int matrix(PyObject* object, int flags, Py_buffer* buffer, fv_array* view) {
  if (PyObject_GetBuffer(object, buffer, flags) != 0) return 0;
  view->data = buffer->buf;
  view->dtype = FV_FLOAT32;
  view->ndim = buffer->ndim;
  view->shape = (const int64_t*)buffer->shape;
  view->strides = (const int64_t*)buffer->strides;
  return 1;
}

static PyObject* attention(PyObject* self, PyObject* arguments) {
  PyObject* objects[4];
  Py_buffer buffers[4];
  fv_array views[4];
  fv_problem problem = {0};
  fv_error error;
  fv_status status = FV_OK;
  int held = 0;
  (void)self;
  if (!PyArg_ParseTuple(arguments, "OOOO", &objects[0], &objects[1], &objects[2], &objects[3])) return NULL;
  while (held < 4 && matrix(objects[held], held < 3 ? PyBUF_STRIDED_RO : PyBUF_STRIDED, &buffers[held], &views[held])) {
    ++held;
  }
  if (held == 4) {
    problem.query = &views[0];
    problem.key = &views[1];
    problem.value = &views[2];
    problem.score.scale = 1.0;
    problem.reach.left = problem.reach.right = -1;
    Py_BEGIN_ALLOW_THREADS status = api->attention(&problem, &views[3], NULL, &error);
    Py_END_ALLOW_THREADS if (status != FV_OK) PyErr_SetString(PyExc_ValueError, error.message);
  }
  while (held > 0) PyBuffer_Release(&buffers[--held]);
  if (PyErr_Occurred() != NULL) return NULL;
  Py_RETURN_NONE;
}

static PyMethodDef methods[] = {{"attention", attention, METH_VARARGS, NULL}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "c_consumer", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_c_consumer(void) {
  PyObject* module;
  api = fv_import_api();
  module = api != NULL ? PyModule_Create(&definition) : NULL;
#ifdef Py_GIL_DISABLED
  if (module != NULL) PyUnstable_Module_SetGIL(module, Py_MOD_GIL_NOT_USED);
#endif
  return module;
}
