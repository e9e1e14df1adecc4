/* SPDX-License-Identifier: Apache-2.0 */
/* An nbdkit plugin that behaves like one storage device behind several exports.
 *
 * Problem. A RAM disk has no queue worth the name, so nobody can hurt anybody on it. A real array
 * has a bounded number of things it can do at once, and all tenants wait in one line for them.
 *
 * Model. The whole process is one device: one first-come-first-served line before `parallel`
 * servers. An I/O of n bytes takes base + n x per-KiB, of which the part `jitter` is exponentially
 * distributed, on whichever server is free first. Data is kept in memory and is real: what was
 * written is read back. Which server and when is computed at arrival under one lock (each server is
 * a time at which it is free); the calling thread then sleeps until its I/O is done. So start
 * nbdkit with threads enough for all that may wait (-t 256).
 *
 * Parameters: size=256M parallel=8 service=1000 (us) per-kib=4 (us) jitter=50 (percent) export=NAME
 * (repeatable) slow-file=PATH: while that file exists the device takes 1/0.6 of its time (a target
 * slowed by 40 %). */
#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL
#define MAX_EXPORTS 16u
#define MAX_PARALLEL 1024u

struct store {
    char name[256];
    uint8_t *data;
};

/* nbdkit has one instance of a plugin in a process: this is it. */
static struct device {
    int64_t size;
    unsigned parallel, service_us, per_kib_us, jitter_percent;
    const char *slow_file;
    struct store store[MAX_EXPORTS];
    unsigned stores;
    pthread_mutex_t lock; /* free_ns, random */
    uint64_t free_ns[MAX_PARALLEL];
    uint64_t random;
} device = {
    .size = 256 << 20,
    .parallel = 8,
    .service_us = 1000,
    .per_kib_us = 4,
    .jitter_percent = 50,
    .lock = PTHREAD_MUTEX_INITIALIZER,
    .random = 88172645463325252ULL,
};

static int read_unsigned(const char *key, const char *value, unsigned max, unsigned *ret)
{
    unsigned n;
    if (nbdkit_parse_unsigned(key, value, &n) == -1)
        return -1;
    if (n > max) {
        nbdkit_error("%s: found %u, expected at most %u", key, n, max);
        return -1;
    }
    *ret = n;
    return 0;
}

static int device_add_export(const char *name)
{
    if (device.stores >= MAX_EXPORTS || strlen(name) >= sizeof(device.store[0].name)) {
        nbdkit_error("export: at most %u, each shorter than 256 bytes", MAX_EXPORTS);
        return -1;
    }
    strcpy(device.store[device.stores++].name, name);
    return 0;
}

static int device_config(const char *key, const char *value)
{
    if (strcmp(key, "size") == 0)
        return (device.size = nbdkit_parse_size(value)) > 0 ? 0 : -1;
    if (strcmp(key, "parallel") == 0)
        return read_unsigned(key, value, MAX_PARALLEL, &device.parallel);
    if (strcmp(key, "service") == 0)
        return read_unsigned(key, value, 10000000, &device.service_us);
    if (strcmp(key, "per-kib") == 0)
        return read_unsigned(key, value, 1000000, &device.per_kib_us);
    if (strcmp(key, "jitter") == 0)
        return read_unsigned(key, value, 100, &device.jitter_percent);
    if (strcmp(key, "slow-file") == 0)
        return (device.slow_file = nbdkit_absolute_path(value)) != NULL ? 0 : -1;
    if (strcmp(key, "export") == 0)
        return device_add_export(value);
    nbdkit_error("unknown parameter \"%s\"", key);
    return -1;
}

static int device_config_complete(void)
{
    if (device.parallel == 0) {
        nbdkit_error("parallel: found 0, expected at least 1");
        return -1;
    }
    return device.stores > 0 ? 0 : device_add_export("");
}

static int device_get_ready(void)
{
    for (unsigned i = 0; i < device.stores; i++) {
        void *p = mmap(NULL, (size_t)device.size, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED) {
            nbdkit_error("mmap: %s", strerror(errno));
            return -1;
        }
        device.store[i].data = p;
    }
    return 0;
}

static int device_list_exports(int readonly, int default_only, struct nbdkit_exports *exports)
{
    (void)readonly;
    (void)default_only;
    for (unsigned i = 0; i < device.stores; i++)
        if (nbdkit_add_export(exports, device.store[i].name, NULL) == -1)
            return -1;
    return 0;
}

static const char *device_default_export(int readonly, int is_tls)
{
    (void)readonly;
    (void)is_tls;
    return device.store[0].name;
}

static void *device_open(int readonly)
{
    (void)readonly;
    const char *name = nbdkit_export_name();
    for (unsigned i = 0; name != NULL && i < device.stores; i++)
        if (strcmp(device.store[i].name, name) == 0)
            return &device.store[i];
    nbdkit_error("no such export");
    nbdkit_set_error(ENOENT);
    return NULL;
}

static int64_t device_get_size(void *handle)
{
    (void)handle;
    return device.size;
}

static int yes(void *handle)
{
    (void)handle;
    return 1;
}

static int native(void *handle)
{
    (void)handle;
    return NBDKIT_FUA_NATIVE;
}

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* xorshift64 (Marsaglia 2003); under the lock. In (0, 1]. */
static double device_random(void)
{
    uint64_t x = device.random;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    device.random = x;
    return (double)(x >> 11) / 9007199254740992.0 + 1e-16;
}

/* Wait in the line and be served. */
static void device_serve(uint32_t bytes)
{
    double mean =
        (double)device.service_us * 1000.0 + (double)device.per_kib_us * (double)bytes / 1.024;
    double jitter = (double)device.jitter_percent / 100.0;
    if (device.slow_file != NULL && access(device.slow_file, F_OK) == 0)
        mean /= 0.6;
    pthread_mutex_lock(&device.lock);
    double took = mean * (1.0 - jitter) - mean * jitter * log(device_random());
    unsigned first = 0;
    for (unsigned i = 1; i < device.parallel; i++)
        if (device.free_ns[i] < device.free_ns[first])
            first = i;
    uint64_t start = now_ns();
    if (device.free_ns[first] > start)
        start = device.free_ns[first];
    uint64_t done = start + (uint64_t)took;
    device.free_ns[first] = done;
    pthread_mutex_unlock(&device.lock);
    struct timespec t = {.tv_sec = (time_t)(done / 1000000000u),
                         .tv_nsec = (long)(done % 1000000000u)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR)
        continue;
}

static int device_pread(void *handle, void *buf, uint32_t count, uint64_t offset, uint32_t flags)
{
    (void)flags;
    const struct store *s = handle;
    device_serve(count);
    memcpy(buf, s->data + offset, count);
    return 0;
}

static int device_pwrite(void *handle, const void *buf, uint32_t count, uint64_t offset,
                         uint32_t flags)
{
    (void)flags;
    struct store *s = handle;
    device_serve(count);
    memcpy(s->data + offset, buf, count);
    return 0;
}

static int device_zero(void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
    (void)flags;
    struct store *s = handle;
    device_serve(0);
    memset(s->data + offset, 0, count);
    return 0;
}

static int device_flush(void *handle, uint32_t flags)
{
    (void)handle;
    (void)flags;
    return 0;
}

static struct nbdkit_plugin plugin = {
    .name = "device",
    .longname = "a storage device with one queue and bounded parallelism",
    .config = device_config,
    .config_complete = device_config_complete,
    .config_help =
        "size=BYTES parallel=N service=US per-kib=US jitter=PERCENT export=NAME slow-file=PATH",
    .magic_config_key = NULL,
    .get_ready = device_get_ready,
    .list_exports = device_list_exports,
    .default_export = device_default_export,
    .open = device_open,
    .get_size = device_get_size,
    .can_write = yes,
    .can_flush = yes,
    .can_trim = yes,
    .can_zero = yes,
    .can_multi_conn = yes,
    .can_fua = native,
    .pread = device_pread,
    .pwrite = device_pwrite,
    .trim = device_zero,
    .zero = device_zero,
    .flush = device_flush,
};

NBDKIT_REGISTER_PLUGIN(plugin)
