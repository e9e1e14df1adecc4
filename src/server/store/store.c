/* SPDX-License-Identifier: Apache-2.0 */
/* Opening and closing: before the threads start and after they have ended. */
#include "server/store/store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/text.h"
#include "server/store/store_inside.h"

/* Somebody else's lock at start (a backup) is waited for so long. */
#define OPEN_WAIT_NS (5 * NS_PER_S)

/* The folder and those above it, 0700; one that is there keeps its mode: it is the
 * administrator's. */
int store_folder_make(const char *folder)
{
    char path[576];
    size_t len = strlen(folder);
    if (len == 0 || len >= sizeof(path))
        return WEIR_E_INVALID;
    memcpy(path, folder, len + 1);
    for (size_t i = 1; i <= len; i++) {
        if (path[i] != '/' && path[i] != '\0')
            continue;
        char kept = path[i];
        path[i] = '\0';
        if (mkdir(path, 0700) != 0 && errno != EEXIST)
            return -errno;
        path[i] = kept;
    }
    return 0;
}

/* Two servers on one folder would each believe themselves the only writer of it. */
static int lock_folder(struct store *s, char *words, size_t size)
{
    char path[600];
    snprintf(path, sizeof(path), "%s/store.lock", s->folder);
    s->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (s->lock_fd < 0) {
        int rc = -errno;
        snprintf(words, size, "%s: %s", path, weir_strerror(rc));
        return rc;
    }
    if (flock(s->lock_fd, LOCK_EX | LOCK_NB) == 0)
        return 0;
    snprintf(words, size, "%s: another weir-server uses this folder", s->folder);
    return WEIR_E_EXISTS;
}

static int open_patiently(struct store *s, char *words, size_t size)
{
    uint64_t deadline = clock_mono_ns() + OPEN_WAIT_NS;
    char aside[sizeof(s->aside)], why[sizeof(s->aside)] = "";
    int rc;
    do {
        rc = sqlite_backend_open_anew(s->folder, &s->writer, why, aside, sizeof(aside));
        if (aside[0] != '\0')
            memcpy(s->aside, aside, sizeof(s->aside));
        if (rc == WEIR_E_UNAVAILABLE)
            usleep(20000); /* start-up: there are no other threads yet */
    } while (rc == WEIR_E_UNAVAILABLE && clock_mono_ns() < deadline);
    snprintf(words, size, "%s", why);
    return rc;
}

/* A start is the time to find damage: before anything relies on what it reads. */
static int open_sound(struct store *s, char *words, size_t size)
{
    int rc = open_patiently(s, words, size);
    if (rc != 0)
        return rc;
    rc = sqlite_backend_check(s->writer, words, size);
    if (rc == 0 || !s->writer->ops->damaged(s->writer))
        return rc;
    s->writer->ops->close(s->writer);
    s->writer = NULL;
    rc = sqlite_samples_set_aside(s->folder, s->aside, sizeof(s->aside));
    if (rc != 0) {
        snprintf(words, size, "%s", s->aside);
        return rc;
    }
    return open_patiently(s, words, size);
}

int store_open(const struct server_config *config, struct store **ret, char *ret_words, size_t size)
{
    weir_assert(size > 0);
    ret_words[0] = '\0';
    struct store *s = calloc(1, sizeof(*s));
    if (s == NULL)
        return -ENOMEM;
    s->lock_fd = -1;
    atomic_init(&s->figures.last_error, "");
    s->ages = (struct store_ages){.keep_us = {(int64_t)(config->keep_1s_ns / NS_PER_US),
                                              (int64_t)(config->keep_10s_ns / NS_PER_US),
                                              (int64_t)(config->keep_1min_ns / NS_PER_US),
                                              (int64_t)(config->keep_1h_ns / NS_PER_US)}};
    int rc = text_copy(s->folder, sizeof(s->folder), config->state_dir);
    if (rc == 0)
        rc = store_folder_make(s->folder);
    if (rc != 0)
        snprintf(ret_words, size, "%s: %s", config->state_dir, weir_strerror(rc));
    if (rc == 0)
        rc = lock_folder(s, ret_words, size);
    if (rc == 0)
        rc = open_sound(s, ret_words, size);
    if (rc != 0) {
        store_close(s);
        return rc;
    }
    *ret = s;
    return 0;
}

void store_close(struct store *s)
{
    if (s == NULL)
        return;
    if (s->writer != NULL)
        s->writer->ops->close(s->writer);
    if (s->lock_fd >= 0)
        close(s->lock_fd);
    free(s);
}
