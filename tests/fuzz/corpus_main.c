/* SPDX-License-Identifier: Apache-2.0 */
/* Feeds every file of the folders it is given to a fuzz target: the seeds, and with them every
 * input that once broke something, run on each build without clang or libFuzzer. No file at all is
 * an error. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/assert.h"
#include "base/text.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define INPUT_MAX (16u << 20)

static void feed(const char *path)
{
    char *data;
    size_t n;
    int code = text_read_file(path, INPUT_MAX, &data, &n);

    if (code < 0) {
        fprintf(stderr, "%s: cannot be read (%d)\n", path, code);
        exit(1);
    }
    /* Known to whoever reads the log of a crash. */
    fprintf(stderr, "%s\n", path);
    LLVMFuzzerTestOneInput((const uint8_t *)data, n);
    free(data);
}

static unsigned feed_folder(const char *folder)
{
    DIR *d = opendir(folder);
    struct dirent *e;
    unsigned fed = 0;

    if (d == NULL) {
        perror(folder);
        exit(1);
    }
    while ((e = readdir(d)) != NULL) {
        char path[4096];
        struct stat st;
        int len = snprintf(path, sizeof path, "%s/%s", folder, e->d_name);

        weir_assert(len > 0 && (size_t)len < sizeof path);
        if (e->d_name[0] == '.' || stat(path, &st) < 0 || !S_ISREG(st.st_mode))
            continue;
        feed(path);
        fed++;
    }
    closedir(d);
    return fed;
}

int main(int argc, char **argv)
{
    unsigned fed = 0;

    for (int i = 1; i < argc; i++)
        fed += feed_folder(argv[i]);
    fprintf(stderr, "%u inputs\n", fed);
    return fed > 0 ? 0 : 1;
}
