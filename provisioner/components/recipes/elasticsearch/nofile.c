/* Reports a limit of 65535 open files where the real one is lower, so that Elasticsearch's bootstrap check lets a small
 * development cluster start on a host that cannot raise it. The limit itself stays as it is. Preloaded by `node` alone,
 * in the environments dev and ci.
 *
 * Without any header: the build needs no C library's development files. */

enum { OPEN_FILES = 7, REPORTED = 65535 };

#if defined(__aarch64__)
enum { PRLIMIT64 = 261 };
#else
enum { PRLIMIT64 = 302 };
#endif

extern long syscall(long number, ...);

int getrlimit64(unsigned resource, unsigned long limits[2]) {
    long failed = syscall(PRLIMIT64, 0L, (long)resource, (void *)0, limits);
    if (!failed && resource == OPEN_FILES && limits[1] < REPORTED) {
        limits[0] = REPORTED;
        limits[1] = REPORTED;
    }
    return (int)failed;
}

int getrlimit(unsigned resource, unsigned long limits[2]) {
    return getrlimit64(resource, limits);
}
