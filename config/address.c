/* address: checks of listening addresses and URLs, with sentences that say what would be right.
 *
 * Happy path: the text is taken apart and each part is plain. Failure paths: everything else. Whether an
 * address that other machines reach may be served is not judged here, but can be asked (listen_is_local). */
#include "config/address.h"

#include <arpa/inet.h>
#include <string.h>
#include <sys/un.h>

static bool port_parse(struct slice s, bool is_zero_ok)
{
    uint64_t v;
    return slice_u64(s, &v) == 0 && v <= 65535 && (v > 0 || is_zero_ok);
}

static bool ip_parse(struct slice s, int family, void *out)
{
    char text[INET6_ADDRSTRLEN];
    if (s.n >= sizeof(text))
        return false;
    memcpy(text, s.p, s.n);
    text[s.n] = '\0';
    return inet_pton(family, text, out) == 1;
}

/* Splits at the last ':' outside of brackets. */
static bool split_port(struct slice s, struct slice *ret_host, struct slice *ret_port)
{
    size_t at = s.n;
    while (at > 0 && s.p[at - 1] != ':' && s.p[at - 1] != ']')
        at--;
    if (at == 0 || s.p[at - 1] != ':')
        return false;
    *ret_host = (struct slice){s.p, at - 1};
    *ret_port = slice_from(s, at);
    return true;
}

static bool bracketed_parse(struct slice host, unsigned char out[16])
{
    return host.n > 2 && host.p[0] == '[' && host.p[host.n - 1] == ']' &&
           ip_parse((struct slice){host.p + 1, host.n - 2}, AF_INET6, out);
}

int listen_check(struct slice s, struct err *err)
{
    if (slice_starts(s, SL("unix:"))) {
        if (s.n == 5 || s.n - 5 >= sizeof(((struct sockaddr_un *)NULL)->sun_path))
            return err_set(err, E_INVALID, "expected `unix:` and a path of at most %zu bytes",
                           sizeof(((struct sockaddr_un *)NULL)->sun_path) - 1);
        return 0;
    }
    struct slice host, port;
    if (!split_port(s, &host, &port) || !port_parse(port, true))
        return err_set(err, E_INVALID,
                       "expected an address with a port such as `127.0.0.1:8700`, or `unix:/path`");
    unsigned char v4[4], v6[16];
    if (slice_eq_str(host, "localhost") || ip_parse(host, AF_INET, v4) || bracketed_parse(host, v6))
        return 0;
    if (host.n == 0 || slice_eq_str(host, "*"))
        return err_set(err, E_INVALID, "for all addresses of the machine say `0.0.0.0:%.*s` or `[::]:%.*s`",
                       SL_ARG(port), SL_ARG(port));
    if (ip_parse(host, AF_INET6, v6))
        return err_set(err, E_INVALID, "an IPv6 address stands in brackets, such as `[::1]:8700`");
    return err_set(err, E_INVALID, "expected an IP address such as `127.0.0.1:8700`, not a host name");
}

bool listen_is_local(struct slice s)
{
    static const unsigned char loopback6[16] = {[15] = 1};
    struct slice host, port;
    unsigned char v4[4], v6[16];
    if (slice_starts(s, SL("unix:")))
        return true;
    if (!split_port(s, &host, &port))
        return false;
    return slice_eq_str(host, "localhost") || (ip_parse(host, AF_INET, v4) && v4[0] == 127) ||
           (bracketed_parse(host, v6) && memcmp(v6, loopback6, sizeof(v6)) == 0);
}

bool listen_is_any(struct slice s)
{
    static const unsigned char any6[16];
    struct slice host, port;
    unsigned char v4[4], v6[16];
    return split_port(s, &host, &port) &&
           ((ip_parse(host, AF_INET, v4) && memcmp(v4, any6, sizeof(v4)) == 0) ||
            (bracketed_parse(host, v6) && memcmp(v6, any6, sizeof(v6)) == 0));
}

static bool is_host(struct slice s)
{
    unsigned char v6[16];
    if (s.n > 0 && s.p[0] == '[')
        return bracketed_parse(s, v6);
    if (s.n == 0 || s.n > 253 || s.p[0] == '.' || s.p[0] == '-')
        return false;
    for (size_t i = 0; i < s.n; i++) {
        char c = s.p[i];
        bool is_word = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
        if (!is_word && c != '-' && (c != '.' || s.p[i - 1] == '.'))
            return false;
    }
    return true;
}

int url_check(struct slice s, struct slice *ret, struct err *err)
{
    struct slice rest = s;
    if (slice_starts(s, SL("http://")))
        rest = slice_from(s, 7);
    else if (slice_starts(s, SL("https://")))
        rest = slice_from(s, 8);
    else
        return err_set(err, E_INVALID, "expected a URL that begins with `http://` or `https://`");
    for (size_t i = 0; i < s.n; i++)
        if ((unsigned char)s.p[i] <= ' ' || (unsigned char)s.p[i] > '~' ||
            strchr("\"<>\\^`{|}", s.p[i]) != NULL)
            return err_set(err, E_INVALID, "a URL holds no blanks, quotes or characters beyond ASCII");
    if (slice_find(rest, '@') != SIZE_MAX)
        return err_set(err, E_INVALID, "a URL with a user or password in it is not allowed");
    if (slice_find(rest, '?') != SIZE_MAX || slice_find(rest, '#') != SIZE_MAX)
        return err_set(err, E_INVALID, "expected a URL without `?` and `#`");
    struct slice authority, path = rest, host, port;
    (void)slice_cut(&path, '/', &authority); /* without a path all of it is the authority */
    host = authority;
    if (split_port(authority, &host, &port) && !port_parse(port, false))
        return err_set(err, E_INVALID, "expected a port from 1 to 65535 after the `:`");
    if (!is_host(host))
        return err_set(err, E_INVALID, "expected a host name or an address after `://`");
    if (path.n > 1 && (memmem(path.p, path.n, "..", 2) != NULL || memmem(path.p, path.n, "//", 2) != NULL))
        return err_set(err, E_INVALID, "expected a path without `..` and `//`");
    while (s.n > 0 && s.p[s.n - 1] == '/')
        s.n--;
    *ret = s;
    return 0;
}
