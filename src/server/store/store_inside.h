/* SPDX-License-Identifier: Apache-2.0 */
/* What the writer and the readers of one store share: where it is, and figures. */
#ifndef WEIR_SERVER_STORE_STORE_INSIDE_H
#define WEIR_SERVER_STORE_STORE_INSIDE_H
#include <stdatomic.h>

#include "server/store/backend.h"
#include "server/store/store.h"

/* Written by the writer alone, read by readers for STORE_STATUS: figures of about now, each for
 * itself. */
struct store_figures {
    _Atomic uint64_t pending_rows, pending_bytes, dropped_bulk, dropped_kept, refused_rows;
    _Atomic uint64_t writes_waiting, commits, reopened;
    _Atomic int64_t last_commit_us;
    _Atomic(const char *) last_error; /* static text; "" : none since it works again */
};

struct store {
    char folder[512];
    struct store_ages ages;
    int lock_fd;
    char aside[800]; /* what became of damaged samples at the start, for the writer to tell */
    struct store_backend *writer; /* opened by store_open, then the writer thread's */
    /* A reader met damaged samples; the writer looks and acts. */
    atomic_bool suspect;
    struct store_figures figures;
};

#endif
