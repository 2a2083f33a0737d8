/*
 * smtp-source with STARTTLS: one message a connection, each with a TLS 1.3 handshake of its own.
 *
 *     starttls-source SESSIONS MESSAGES BYTES full|resumed PORT
 *
 * Keeps SESSIONS connections to 127.0.0.1 busy from one thread; each waits for every reply, as smtp-source does.
 * "resumed" offers the last ticket that was issued. No certificate is verified. Prints how many handshakes were
 * resumed. Ends with 1, and says why, when anything is refused.
 */
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

/* What is sent once the reply before it has come; NULL stands for the handshake, "" for the content. */
static const char *const script[] = {
    "EHLO client.example\r\n",
    "STARTTLS\r\n",
    NULL,
    "EHLO client.example\r\n",
    "MAIL FROM:<sender@one.example>\r\n",
    "RCPT TO:<recipient@two.example>\r\n",
    "DATA\r\n",
    "",
    "QUIT\r\n",
};
enum { STEPS = sizeof script / sizeof *script };

struct session {
    int fd;
    SSL *tls; /* NULL in clear */
    int step; /* the next of the script */
    int shaken;
    size_t length;
    char reply[4096];
};

static struct sockaddr_in server;
static SSL_CTX *context;
static SSL_SESSION *ticket;
static char *content;
static size_t content_length;
static int events, resume;
static long resumed;

static int keep_ticket(SSL *tls, SSL_SESSION *session)
{
    (void)tls;
    SSL_SESSION_free(ticket);
    ticket = session;
    return 1;
}

static void begin(struct session *session)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (const struct sockaddr *)&server, sizeof server) < 0)
        err(1, "connect");
    fcntl(fd, F_SETFL, O_NONBLOCK);
    *session = (struct session){.fd = fd};
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = session};
    if (epoll_ctl(events, EPOLL_CTL_ADD, fd, &event) < 0)
        err(1, "epoll_ctl");
}

static void end(struct session *session)
{
    SSL_shutdown(session->tls);
    SSL_free(session->tls);
    close(session->fd);
}

static void transmit(struct session *session, const char *data, size_t length)
{
    while (length > 0) {
        int sent = session->shaken ? SSL_write(session->tls, data, (int)length)
                                   : (int)write(session->fd, data, length);
        if (sent > 0) {
            data += sent;
            length -= (size_t)sent;
            continue;
        }
        if (session->shaken ? SSL_get_error(session->tls, sent) != SSL_ERROR_WANT_WRITE : errno != EAGAIN)
            errx(1, "the connection ended while sending");
        struct pollfd writable = {.fd = session->fd, .events = POLLOUT};
        poll(&writable, 1, -1);
    }
}

/* Shake hands; return whether that is over. */
static int shake_hands(struct session *session)
{
    if (session->tls == NULL) {
        session->tls = SSL_new(context);
        SSL_set_fd(session->tls, session->fd);
        SSL_set_connect_state(session->tls);
        if (resume && ticket != NULL) {
            /* A copy, since OpenSSL spoils a session for its other users when one of them gets another ticket. */
            SSL_SESSION *own = SSL_SESSION_dup(ticket);
            SSL_set_session(session->tls, own);
            SSL_SESSION_free(own);
        }
    }
    int done = SSL_do_handshake(session->tls);
    if (done == 1) {
        session->shaken = 1;
        resumed += SSL_session_reused(session->tls);
        return 1;
    }
    if (SSL_get_error(session->tls, done) != SSL_ERROR_WANT_READ) {
        ERR_print_errors_fp(stderr);
        errx(1, "the handshake failed");
    }
    return 0;
}

/* Take what has come; return whether a reply, of however many lines, is whole. */
static int replied(struct session *session)
{
    char *room = session->reply + session->length;
    int left = (int)(sizeof session->reply - 1 - session->length);
    int got = session->shaken ? SSL_read(session->tls, room, left) : (int)read(session->fd, room, (size_t)left);
    if (got <= 0) {
        if (session->shaken ? SSL_get_error(session->tls, got) == SSL_ERROR_WANT_READ : got < 0 && errno == EAGAIN)
            return 0;
        errx(1, "the connection ended before a reply");
    }
    session->length += (size_t)got;
    session->reply[session->length] = '\0';
    char *line = session->reply;
    for (char *stop; (stop = strstr(line, "\r\n")) != NULL; line = stop + 2)
        if (stop - line == 3 || line[3] == ' ') {
            if (line[0] != '2' && line[0] != '3')
                errx(1, "%.*s", (int)(stop - line), line);
            session->length = 0;
            return 1;
        }
    return 0;
}

/* Go on with a connection that can be read; return whether it has come to its end. */
static int proceed(struct session *session)
{
    int shaking = session->tls != NULL && !session->shaken;
    if (!shaking && !replied(session))
        return 0;
    if (session->step == STEPS)
        return 1;
    if (script[session->step] == NULL) {
        if (!shake_hands(session))
            return 0;
        session->step++;
    }
    const char *line = script[session->step++];
    transmit(session, *line ? line : content, *line ? strlen(line) : content_length);
    return 0;
}

/* Make a message with `size` bytes of text in lines of 80, and the dot. */
static void compose(size_t size)
{
    static const char head[] = "From: <sender@one.example>\r\nTo: <recipient@two.example>\r\n"
                               "Date: Thu, 01 Jan 2026 00:00:00 +0000\r\nMessage-Id: <1@client.example>\r\n\r\n";
    content = malloc(sizeof head + size + 5);
    if (content == NULL)
        err(1, "malloc");
    memcpy(content, head, sizeof head - 1);
    char *stop = content + sizeof head - 1;
    for (size_t i = 0; i < size; i++)
        *stop++ = i % 80 == 78 ? '\r' : i % 80 == 79 ? '\n' : 'X';
    memcpy(stop, "\r\n.\r\n", 5);
    content_length = (size_t)(stop + 5 - content);
}

int main(int argc, char **argv)
{
    if (argc != 6)
        errx(2, "usage: starttls-source SESSIONS MESSAGES BYTES full|resumed PORT");
    long count = atol(argv[1]), left = atol(argv[2]), open = 0;
    compose((size_t)atol(argv[3]));
    resume = strcmp(argv[4], "resumed") == 0;
    server.sin_family = AF_INET;
    server.sin_port = htons((unsigned short)atoi(argv[5]));
    server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);

    context = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION);
    SSL_CTX_set_verify(context, SSL_VERIFY_NONE, NULL);
    if (resume) {
        SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
        SSL_CTX_sess_set_new_cb(context, keep_ticket);
    }
    events = epoll_create1(0);
    struct session *sessions = calloc((size_t)count, sizeof *sessions);
    if (events < 0 || sessions == NULL)
        err(1, "no memory");
    for (; open < count && left > 0; open++, left--)
        begin(&sessions[open]);
    while (open > 0) {
        struct epoll_event ready[64];
        int found = epoll_wait(events, ready, 64, -1);
        for (int i = 0; i < found; i++) {
            struct session *session = ready[i].data.ptr;
            if (!proceed(session))
                continue;
            end(session);
            if (left > 0) {
                left--;
                begin(session);
            } else {
                open--;
            }
        }
    }
    printf("%ld\n", resumed);
    return 0;
}
