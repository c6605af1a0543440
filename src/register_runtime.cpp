// The runtime: instruction sets, threads, the interrupt check, and what serves the tests and the benchmarks.
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "arrays.hpp"
#include "register.hpp"
#if defined(_WIN32)
#define NOMINMAX  // of windows.h's macros
#include <windows.h>
#else
#include <dlfcn.h>
#endif

namespace foveate::python {
namespace {

// ---- Ctrl-C

std::atomic<unsigned long> main_thread{0};
thread_local int uninterrupted = 0;

void note_main_thread() { main_thread = PyThread_get_thread_ident(); }

// Called by long calls, without the GIL. Only the main thread handles signals, so that no other thread takes the GIL.
int interrupted() {
  if (uninterrupted != 0 || PyThread_get_thread_ident() != main_thread) return 0;
  const PyGILState_STATE state = PyGILState_Ensure();
  const int raised = PyErr_CheckSignals();
  PyGILState_Release(state);
  return raised != 0;
}

void install_interrupt_check() {
  main_thread = py::module_::import("threading").attr("main_thread")().attr("ident").cast<unsigned long>();
  // In a forked child, the thread that forked is the main thread. Windows has no fork.
  const py::module_ os = py::module_::import("os");
  if (py::hasattr(os, "register_at_fork")) {
    os.attr("register_at_fork")(py::arg("after_in_child") = py::cpp_function(note_main_thread));
  }
  fv_set_interrupt_check(interrupted);
}

// ---- instruction sets

py::list isa_names() {
  py::list names;
  for (int32_t i = 0; i < fv_isa_count(); ++i) names.append(fv_isa_name(i));
  return names;
}

void isa_select(const std::string& name) {
  fv_error error;
  if (const fv_status status = fv_isa_select(name.c_str(), &error); status != FV_OK) fail(status, error);
}

void select_isa_of_environment() {
  const char* name = std::getenv("FOVEATE_ISA");
  const bool named = name != nullptr && *name != '\0';
  if (!named && fv_isa_count() > 0) return;
  fv_error error;  // that of a CPU that runs none, too
  if (fv_isa_select(named ? name : "", &error) != FV_OK) throw py::import_error(error.message);
}

// ---- threads

void set_threading(const std::string& name) {
  fv_error error;
  if (const fv_status status = fv_set_threading(name.c_str(), &error); status != FV_OK) fail(status, error);
}

py::list openmp_names() {
  py::list names;
  for (int32_t i = 0; const char* const name = fv_openmp_name(i); ++i) names.append(name);
  return names;
}

// The address of a function in a loaded library, or in one that it depends on (but on Windows); 0: there is none.
uintptr_t find_function(const std::string& path, const std::string& name) {
#if defined(_WIN32)
  const HMODULE library = GetModuleHandleA(path.c_str());
  return library == nullptr ? 0 : reinterpret_cast<uintptr_t>(GetProcAddress(library, name.c_str()));
#else
  void* const library = dlopen(path.c_str(), RTLD_LAZY | RTLD_NOLOAD);
  if (library == nullptr) return 0;
  void* const found = dlsym(library, name.c_str());
  dlclose(library);  // it was loaded before, and stays so
  return reinterpret_cast<uintptr_t>(found);
#endif
}

void borrow_threads(uintptr_t parallel, int32_t count) {
  fv_borrow_threads(reinterpret_cast<fv_parallel>(parallel), count);
}

// ---- tests and benchmarks

fv_dtype dtype_named(const std::string& name) {
  fv_dtype dtype;
  if (!dtype_of_name(name.c_str(), &dtype)) {
    throw py::type_error("dtype: got '" + name + "', wanted float16, bfloat16, float32 or float64");
  }
  return dtype;
}

py::object elementary(const std::string& name, const py::array& array) {
  View from, to;
  if (!view("array", array.ptr(), &from)) throw py::error_already_set();
  if (!(array.flags() & py::array::c_style)) throw py::value_error("array: got strides, wanted C order");
  auto result = py::reinterpret_steal<py::object>(new_array(fields(array.ptr())->descr, from.ndim, from.shape));
  if (!result || !view("result", result.ptr(), &to)) throw py::error_already_set();
  const int64_t count = array.size();
  fv_error error;
  fv_status status;
  {
    const py::gil_scoped_release released;
    status = fv_elementary(name.c_str(), from.dtype, from.data, to.data, count, &error);
  }
  if (status != FV_OK) fail(status, error);
  return result;
}

double measure_flops(const std::string& dtype_name, int32_t threads, double seconds) {
  const fv_dtype dtype = dtype_named(dtype_name);
  const py::gil_scoped_release released;
  return fv_measure_flops(dtype, threads, seconds);
}

double measure_read(int64_t bytes, int32_t threads, double seconds) {
  const py::gil_scoped_release released;
  return fv_measure_read(bytes, threads, seconds);
}

}  // namespace

Uninterrupted::Uninterrupted() { ++uninterrupted; }
Uninterrupted::~Uninterrupted() { --uninterrupted; }

void register_runtime(py::module_& module) {
  using py::arg;
  using py::pos_only;
  install_interrupt_check();
  select_isa_of_environment();
  fv_openmp_name(0);  // runtimes that are loaded say how many threads there are, before a program limits them

#ifdef __clang__
  module.attr("compiler") = __VERSION__;
#else
  module.attr("compiler") = "GCC " __VERSION__;
#endif
  module.def("isa_names", &isa_names, "The instruction sets that were compiled and that this CPU runs, best first.");
  module.def("isa_features", &fv_isa_features, "The features of the instruction set in use.");
  module.def("isa_select", &isa_select, arg("name"), pos_only(), "Choose an instruction set by name.");
  module.def("isa_selected", &fv_isa_selected, "The instruction set in use.");

  module.attr("most_threads") = FV_MAX_THREADS;
  module.def("set_num_threads", &fv_set_num_threads, arg("count").noconvert(), pos_only(),
             "The number of threads of later calls; 0: the default.");
  module.def("requested_num_threads", &fv_requested_num_threads,
             "What set_num_threads was given last; 0: the default.");
  module.def("get_num_threads", &fv_get_num_threads, "The number of threads that a call made now would use.");

  module.def("set_threading", &set_threading, arg("name"), pos_only(), "Choose who runs the tasks, by name.");
  module.def("get_threading", &fv_get_threading, "Who would run the tasks of a call made now.");
  module.def("openmp_names", &openmp_names, "The runtimes of OpenMP that there are now, and where they are from.");

  module.def("find_function", &find_function, arg("path"), arg("name"), pos_only(),
             "The address of a function in a loaded library, or in one that it depends on; 0: there is none.");
  module.def("borrow_threads", &borrow_threads, arg("parallel").noconvert(), arg("count").noconvert(), pos_only(),
             "Let later calls from this thread use a parallel function, or 0, and so many threads; 0 ends that.");

  module.def("elementary", &elementary, arg("name"), arg("array").noconvert(), pos_only(),
             "exp2, log or tanh as the kernels compute them, of a float32 or float64 array in C order.");
  module.def("measure_flops", &measure_flops, arg("dtype"), arg("threads"), arg("seconds"), pos_only(),
             "The rate of fused multiply-adds of a dtype, in flops a second.");
  module.def("measure_read", &measure_read, arg("size"), arg("threads"), arg("seconds"), pos_only(),
             "The rate of reading a buffer of so many bytes a thread, in bytes a second.");
}

}  // namespace foveate::python
