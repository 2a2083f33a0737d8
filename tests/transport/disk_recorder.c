/* Records what a process does to the files below a directory, in the order in which it happens.

   For LD_PRELOAD, on 64-bit systems. RECORDER_ROOT is the directory, RECORDER_LOG the file that the records are
   appended to; power_loss_kit.py reads them. A flush takes its time but is not carried out, since what it would keep
   is for the reader to say. A call that is not here goes unseen, so the reader compares its outcome with the
   directory. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

_Static_assert(sizeof(off_t) == 8, "off_t and off64_t are the same");

#define FLUSH_MICROSECONDS 500
#define DESCRIPTORS 65536
#define KEEP_SIZE_AND_PUNCH_HOLE 3

struct header {
    int32_t operation, descriptor;
    int64_t offset, size;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static const char *root;
static int records = -1;
static char tracked[DESCRIPTORS];

/* The function that this one stands before. */
#define NEXT(name) \
    static __typeof__(&name) next; \
    if (!next && !(next = (__typeof__(&name))dlsym(RTLD_NEXT, #name))) abort()

static void append(const void *data, size_t size) {
    NEXT(write);
    if (next(records, data, size) != (ssize_t)size) abort();
}

static void record(char operation, int descriptor, int64_t offset, int64_t size) {
    struct header header = {operation, descriptor, offset, size};
    append(&header, sizeof header);
}

static void record_path(char operation, int descriptor, const char *path) {
    record(operation, descriptor, 0, strlen(path));
    append(path, strlen(path));
}

static void record_write(int descriptor, int64_t offset, size_t size, const struct iovec *chunks) {
    record('w', descriptor, offset, size);
    for (size_t length; size; size -= length, chunks++) {
        length = chunks->iov_len < size ? chunks->iov_len : size;
        append(chunks->iov_base, length);
    }
}

static int below_root(const char *path) {
    return root && !strncmp(path, root, strlen(root));
}

static int is_tracked(int descriptor) {
    return descriptor >= 0 && descriptor < DESCRIPTORS && tracked[descriptor];
}

static int opened(int descriptor, const char *path, int flags) {
    if (descriptor < 0) return descriptor;
    if (descriptor >= DESCRIPTORS) abort();
    tracked[descriptor] = 1;
    record_path('o', descriptor, path);
    if (flags & O_TRUNC) record('t', descriptor, 0, 0);
    return descriptor;
}

/* Carries out and records with nothing in between. */
#define RECORDED(type, call, on_success) \
    pthread_mutex_lock(&lock); \
    type result = call; \
    if (result >= 0) on_success; \
    pthread_mutex_unlock(&lock); \
    return result

#define MODE_ARGUMENT \
    mode_t mode = 0; \
    if (flags & O_CREAT) { \
        va_list arguments; \
        va_start(arguments, flags); \
        mode = va_arg(arguments, unsigned); \
        va_end(arguments); \
    }

int open(const char *path, int flags, ...) {
    NEXT(open);
    MODE_ARGUMENT
    if (!below_root(path)) return next(path, flags, mode);
    RECORDED(int, next(path, flags, mode), opened(result, path, flags));
}

int openat(int directory, const char *path, int flags, ...) {
    NEXT(openat);
    MODE_ARGUMENT
    if (!below_root(path)) return next(directory, path, flags, mode);
    RECORDED(int, next(directory, path, flags, mode), opened(result, path, flags));
}

int close(int descriptor) {
    NEXT(close);
    if (!is_tracked(descriptor)) return next(descriptor);
    pthread_mutex_lock(&lock);
    tracked[descriptor] = 0;
    int result = next(descriptor);
    pthread_mutex_unlock(&lock);
    return result;
}

ssize_t write(int descriptor, const void *data, size_t size) {
    NEXT(write);
    if (!is_tracked(descriptor)) return next(descriptor, data, size);
    struct iovec chunk = {(void *)data, size};
    RECORDED(ssize_t, next(descriptor, data, size),
             record_write(descriptor, lseek(descriptor, 0, SEEK_CUR) - result, result, &chunk));
}

ssize_t pwrite(int descriptor, const void *data, size_t size, off_t offset) {
    NEXT(pwrite);
    if (!is_tracked(descriptor)) return next(descriptor, data, size, offset);
    struct iovec chunk = {(void *)data, size};
    RECORDED(ssize_t, next(descriptor, data, size, offset), record_write(descriptor, offset, result, &chunk));
}

ssize_t pwritev(int descriptor, const struct iovec *chunks, int count, off_t offset) {
    NEXT(pwritev);
    if (!is_tracked(descriptor)) return next(descriptor, chunks, count, offset);
    RECORDED(ssize_t, next(descriptor, chunks, count, offset), record_write(descriptor, offset, result, chunks));
}

ssize_t pwritev2(int descriptor, const struct iovec *chunks, int count, off_t offset, int flags) {
    (void)flags;
    return pwritev(descriptor, chunks, count, offset);
}

int ftruncate(int descriptor, off_t size) {
    NEXT(ftruncate);
    if (!is_tracked(descriptor)) return next(descriptor, size);
    RECORDED(int, next(descriptor, size), record('t', descriptor, size, 0));
}

int fallocate(int descriptor, int mode, off_t offset, off_t size) {
    NEXT(fallocate);
    if (!is_tracked(descriptor) || mode != KEEP_SIZE_AND_PUNCH_HOLE) return next(descriptor, mode, offset, size);
    RECORDED(int, next(descriptor, mode, offset, size), record('p', descriptor, offset, size));
}

int fsync(int descriptor) {
    NEXT(fsync);
    if (!is_tracked(descriptor)) return next(descriptor);
    pthread_mutex_lock(&lock);
    record('f', descriptor, 0, 0);
    pthread_mutex_unlock(&lock);
    usleep(FLUSH_MICROSECONDS);
    RECORDED(int, 0, record('F', descriptor, 0, 0));
}

int fdatasync(int descriptor) {
    NEXT(fdatasync);
    return is_tracked(descriptor) ? fsync(descriptor) : next(descriptor);
}

int unlink(const char *path) {
    NEXT(unlink);
    if (!below_root(path)) return next(path);
    RECORDED(int, next(path), record_path('u', -1, path));
}

int unlinkat(int directory, const char *path, int flags) {
    NEXT(unlinkat);
    if (!below_root(path) || flags) return next(directory, path, flags);
    RECORDED(int, next(directory, path, flags), record_path('u', -1, path));
}

int mkdir(const char *path, mode_t mode) {
    NEXT(mkdir);
    if (!below_root(path)) return next(path, mode);
    RECORDED(int, next(path, mode), record_path('d', -1, path));
}

/* A process ends between two calls, or the last of them would be recorded in part. */
void _exit(int status) {
    NEXT(_exit);
    pthread_mutex_lock(&lock);
    next(status);
    __builtin_unreachable();
}

/* The names that programs built for large files call. */
#define ALSO(name, other) extern __typeof__(name) other __attribute__((alias(#name)))
ALSO(open, open64);
ALSO(openat, openat64);
ALSO(pwrite, pwrite64);
ALSO(pwritev, pwritev64);
ALSO(pwritev2, pwritev64v2);
ALSO(ftruncate, ftruncate64);
ALSO(fallocate, fallocate64);

__attribute__((constructor)) static void begin(void) {
    const char *log = getenv("RECORDER_LOG");
    if (!log) return;
    records = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (records < 0) abort();
    root = getenv("RECORDER_ROOT");
}
