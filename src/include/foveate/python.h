/* foveate: the C ABI of an installed foveate, for C and C++ extension modules of Python.
 *
 * The functions of foveate.h, compiled, are in the package's own extension module, which hands them out as a table in a
 * capsule. An extension module takes them from there and links nothing:
 *
 *   static const fv_api* foveate;                       once, when the module is initialized:
 *   foveate = fv_import_api();                          NULL, with an ImportError, if it cannot be loaded
 *   if (foveate == NULL) return NULL;
 *   status = foveate->attention(&problem, &out, NULL, &error);   later, with or without the GIL
 *
 * After FV_INTERRUPTED the calling thread has the exception of its signal handler set, to be returned to Python.
 */
#ifndef FOVEATE_PYTHON_H
#define FOVEATE_PYTHON_H

#include <Python.h>

#include "foveate/foveate.h"

/* A table serves modules compiled with its major version, and with its minor version or an earlier one. */
#define FV_API_MAJOR 4 /* increases when a structure, a function or its meaning changes */
#define FV_API_MINOR 1 /* increases when functions are added at the end */
#define FV_API_CAPSULE "foveate._core._C_API"

typedef struct fv_api {
  int32_t major;
  int32_t minor;
  int64_t problem_size; /* of an fv_problem, in bytes */
  fv_status (*output_shape)(const fv_problem*, int32_t* ndim, int64_t shape[FV_MAX_DIMS], fv_error*);
  fv_status (*attention)(const fv_problem*, const fv_array* out, const fv_array* lse, fv_error*);
  fv_status (*attention_weights)(const fv_problem*, const fv_array* out, fv_error*);
  fv_status (*hard_attention)(const fv_problem*, fv_selection, const fv_random*, int64_t draws, const fv_array* out,
                              const fv_array* index, const fv_array* log_prob, fv_error*);
  fv_status (*multinoulli)(const fv_array* p, int32_t logits, const fv_random*, int64_t draws, const fv_array* index,
                           fv_error*);
  const char* (*isa_selected)(void);
  const char* (*isa_features)(void);
  void (*set_num_threads)(int32_t count);
  int32_t (*requested_num_threads)(void);
  int32_t (*get_num_threads)(void);
  fv_status (*attention_backward)(const fv_problem*, const fv_array* out, const fv_array* lse, const fv_array* d_out,
                                  const fv_array* d_lse, const fv_gradients*, fv_error*);
  fv_status (*hard_attention_backward)(const fv_problem*, int64_t draws, const fv_array* index, const fv_array* lse,
                                       const fv_array* d_out, const fv_array* advantage, const fv_gradients*,
                                       fv_error*);
  fv_status (*set_threading)(const char* name, fv_error*);
  const char* (*get_threading)(void);
  fv_status (*attention_jvp)(const fv_problem*, const fv_tangents*, const fv_array* out, const fv_array* lse,
                             const fv_array* t_out, const fv_array* t_lse, fv_error*);
  fv_status (*attention_tangent)(const fv_problem*, const fv_tangents*, const fv_array* out, const fv_array* t_out,
                                 const fv_array* t_lse, fv_error*);
  fv_status (*attention_backward_jvp)(const fv_problem*, const fv_tangents*, const fv_array* out, const fv_array* lse,
                                      const fv_array* d_out, const fv_array* d_lse, const fv_array* t_out,
                                      const fv_array* t_lse, const fv_array* t_d_out, const fv_array* t_d_lse,
                                      const fv_gradients*, fv_error*);
  fv_status (*filtered_multinoulli)(const fv_array* p, int32_t logits, const fv_filters*, int32_t distinct,
                                    const fv_random*, int64_t draws, const fv_array* index, const fv_array* log_prob,
                                    fv_error*);
  fv_status (*quantize)(const fv_array* x, int64_t block, const fv_array* data, const fv_array* scale, fv_error*);
  fv_status (*attention_statistics)(const fv_problem*, int64_t first_query, int64_t end_query, const fv_array* key_sum,
                                    const fv_array* entropy, const fv_array* largest, const fv_array* place, fv_error*);
} fv_api;

/* Imports foveate and returns its table, which lives as long as the process. NULL, with an ImportError, if foveate is
 * not installed, or is of another version than this file. Needs the GIL, where there is one. */
static inline const fv_api* fv_import_api(void) {
  const fv_api* api = (const fv_api*)PyCapsule_Import(FV_API_CAPSULE, 0);
  if (api == NULL) return NULL;
  if (api->major != FV_API_MAJOR || api->minor < FV_API_MINOR) {
    PyErr_Format(PyExc_ImportError,
                 "foveate: got version %d.%d of its C API, wanted %d.%d or a later %d; compile this module again with "
                 "the foveate that is installed",
                 (int)api->major, (int)api->minor, FV_API_MAJOR, FV_API_MINOR, FV_API_MAJOR);
    return NULL;
  }
  if (api->problem_size != (int64_t)sizeof(fv_problem)) {
    PyErr_Format(PyExc_ImportError,
                 "foveate: got an fv_problem of %d bytes, wanted one of %d; compile this module again with the foveate "
                 "that is installed",
                 (int)api->problem_size, (int)sizeof(fv_problem));
    return NULL;
  }
  return api;
}

#endif
