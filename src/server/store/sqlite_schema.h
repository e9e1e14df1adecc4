/* SPDX-License-Identifier: Apache-2.0 */
/* The schemas of state.db and samples.db as numbered steps; a step that was released is never
 * changed. */
#ifndef WEIR_SERVER_STORE_SQLITE_SCHEMA_H
#define WEIR_SERVER_STORE_SQLITE_SCHEMA_H

#define SQLITE_STATE_VERSION   2
#define SQLITE_SAMPLES_VERSION 1
extern const char *const sqlite_state_migration[SQLITE_STATE_VERSION];
extern const char *const sqlite_samples_migration[SQLITE_SAMPLES_VERSION];

#endif
