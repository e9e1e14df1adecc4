/* SPDX-License-Identifier: Apache-2.0 */
/* weir-server's command line, and the settings that follow from it and the file it names. Main
 * thread only (getopt). */
#ifndef WEIR_SERVER_OPTIONS_H
#define WEIR_SERVER_OPTIONS_H
#include <stdbool.h>

#include "base/text.h"
#include "server/threads.h"

struct server_options {
    const char *config_path; /* argv's, or a constant; NULL: no file */
    bool check_only;
};

/* The file first, then the options over it, onto @c, which server_config_init was called with. 0:
 * go on; 1: what was asked for (--help, --version) is printed; negative: the reasons are in
 * @errors, one a line. */
int server_options_read(int argc, char **argv, struct server_config *c, struct server_options *o,
                        struct text *errors);

#endif
