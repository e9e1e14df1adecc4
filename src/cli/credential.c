/* SPDX-License-Identifier: Apache-2.0 */
/* The stored file has two lines: the token, and the server that it is for. A token is never sent to
 * another server than that. */
#include "cli/credential.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"

#define TOKEN_FILE_MAX 8192u
#define DEFAULT_STATE_DIR "/var/lib/weir"

bool credential_is_token(const char *token)
{
    static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
                                  "0123456789-._~+/=";
    return *token != '\0' && token[strspn(token, allowed)] == '\0';
}

void credential_fini(struct credential *cr)
{
    if (cr->token)
        explicit_bzero(cr->token, strlen(cr->token));
    free(cr->token);
    cr->token = NULL;
}

/* ~/.config/weir, or below XDG_CONFIG_HOME. */
static int store_path(char *out, size_t size, const char *name)
{
    const char *base = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");
    int n;
    if (base && *base == '/')
        n = snprintf(out, size, "%s/weir%s", base, name);
    else if (home && *home == '/')
        n = snprintf(out, size, "%s/.config/weir%s", home, name);
    else
        return -ENOENT;
    return n < 0 || (size_t)n >= size ? -ENAMETOOLONG : 0;
}

/* The first line of @path, if it is a token; the second goes to *@ret_server. */
static int read_token(const char *path, char **ret_token, char **ret_server)
{
    char *data;
    size_t n;
    int r = text_read_file(path, TOKEN_FILE_MAX, &data, &n);
    if (r < 0)
        return r;
    char *second = strchr(data, '\n');
    data[strcspn(data, "\r\n")] = '\0';
    r = credential_is_token(data) ? 0 : WEIR_E_PARSE;
    if (r == 0) {
        *ret_token = strdup(data);
        r = *ret_token ? 0 : -ENOMEM;
    }
    if (r == 0 && ret_server) {
        second = second ? second + 1 : data + strlen(data);
        second[strcspn(second, "\r\n")] = '\0';
        *ret_server = strdup(second);
    }
    explicit_bzero(data, n);
    free(data);
    return r;
}

/* The stored token, if it is for @server. */
static char *read_stored(const char *server)
{
    char path[PATH_MAX];
    char *token = NULL, *stored_for = NULL;
    if (store_path(path, sizeof(path), "/token") < 0 || read_token(path, &token, &stored_for) < 0)
        return NULL;
    bool good = stored_for && (*stored_for == '\0' || strcmp(stored_for, server) == 0);
    free(stored_for);
    if (good)
        return token;
    explicit_bzero(token, strlen(token));
    free(token);
    return NULL;
}

enum cli_exit credential_find(struct cli *c, const char *server, bool local,
                              struct credential *ret)
{
    char path[PATH_MAX];
    *ret = (struct credential){0};
    if (c->o.token_file) {
        int r = read_token(c->o.token_file, &ret->token, NULL);
        return r == 0 ? CLI_OK
                      : cli_fail(CLI_USAGE, "--token-file %s: %s", c->o.token_file,
                                 r == WEIR_E_PARSE ? "its first line is no token"
                                                   : weir_strerror(r));
    }
    const char *env = getenv("WEIR_TOKEN");
    if (env && *env != '\0') {
        if (!credential_is_token(env))
            return cli_fail(CLI_USAGE, "WEIR_TOKEN holds no token");
        ret->token = strdup(env);
        return CLI_OK;
    }
    if (!c->o.state_dir)
        ret->token = read_stored(server);
    if (!ret->token && local) {
        int n = snprintf(path, sizeof(path), "%s/admin.token",
                         c->o.state_dir ? c->o.state_dir : DEFAULT_STATE_DIR);
        int r = n > 0 && (size_t)n < sizeof(path) ? read_token(path, &ret->token, NULL)
                                                  : -ENAMETOOLONG;
        if (r < 0 && c->o.state_dir)
            return cli_fail(CLI_USAGE, "--state-dir: %s/admin.token: %s", c->o.state_dir,
                            weir_strerror(r));
    }
    return CLI_OK;
}

enum cli_exit credential_ca(const struct cli *c, char **ret)
{
    char path[PATH_MAX];
    const char *env = getenv("WEIR_CA"), *found = c->o.ca;
    if (!found && env && *env != '\0')
        found = env;
    if (found && access(found, R_OK) < 0)
        return cli_fail(CLI_USAGE, "%s %s: %s", c->o.ca ? "--ca" : "WEIR_CA", found,
                        weir_strerror(-errno));
    if (!found && store_path(path, sizeof(path), "/ca.pem") == 0 && access(path, R_OK) == 0)
        found = path;
    *ret = found ? strdup(found) : NULL;
    return !found || *ret ? CLI_OK : cli_fail(CLI_DIFFERENT, "out of memory");
}

enum cli_exit credential_store(const char *server, const char *token)
{
    char path[PATH_MAX], folder[PATH_MAX], above[PATH_MAX];
    if (store_path(path, sizeof(path), "/token") < 0 || store_path(folder, sizeof(folder), "") < 0)
        return cli_fail(CLI_DIFFERENT, "neither XDG_CONFIG_HOME nor HOME says where to keep it");
    snprintf(above, sizeof(above), "%s", folder);
    *strrchr(above, '/') = '\0';
    mkdir(above, 0700);
    if (mkdir(folder, 0700) < 0 && errno != EEXIST)
        return cli_fail(CLI_DIFFERENT, "%s: %s", folder, weir_strerror(-errno));
    struct text t;
    text_init(&t, TOKEN_FILE_MAX);
    text_printf(&t, "%s\n%s\n", token, server);
    int r = t.failed ? WEIR_E_TOO_LARGE : text_write_file_atomic(path, t.data, t.len, 0600);
    if (t.cap > 0)
        explicit_bzero(t.data, t.len);
    text_fini(&t);
    if (r < 0)
        return cli_fail(CLI_DIFFERENT, "%s: %s", path, weir_strerror(r));
    printf("token kept in %s for %s\n", path, server);
    return CLI_OK;
}
