/* What the headers and libstdc++.a of a newer GCC take from glibc after 2.28, as glibc 2.28 would have done it.
   tools/manylinux.sh puts it into each library; nothing of it can be seen outside. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

char __libc_single_threaded; /* 0: there may be other threads, which is always right */

extern void* __dso_handle;
int __cxa_atexit(void (*)(void*), void*, void*);
int atexit(void (*function)(void)) { return __cxa_atexit((void (*)(void*))function, NULL, __dso_handle); }

uint32_t arc4random(void) {
  uint32_t drawn;
  if (getentropy(&drawn, sizeof drawn)) abort();
  return drawn;
}

/* glibc 2.28 waits by the clock of the condition alone, which is CLOCK_REALTIME. */
int pthread_cond_clockwait(pthread_cond_t* condition, pthread_mutex_t* mutex, clockid_t clock,
                           const struct timespec* until) {
  struct timespec now, real;
  if (clock_gettime(clock, &now) || clock_gettime(CLOCK_REALTIME, &real)) return EINVAL;
  int64_t nanoseconds = (until->tv_sec - now.tv_sec) * INT64_C(1000000000) + (until->tv_nsec - now.tv_nsec);
  if (nanoseconds < 0) nanoseconds = 0;
  nanoseconds += real.tv_nsec;
  real.tv_sec += nanoseconds / 1000000000;
  real.tv_nsec = nanoseconds % 1000000000;
  return pthread_cond_timedwait(condition, mutex, &real);
}
