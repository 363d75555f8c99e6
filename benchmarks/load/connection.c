/* One connection: connect(), the opening handshake of RFC 6455, reading, and its end. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "load.h"

#define READ_BYTES (1u << 18)
static char buffer[READ_BYTES];

void connection_fail(struct connection *c, const char *why) {
    if (c->state == CLOSED) return;
    if (c->state != READY) {
        if (!totals.failed_count++) snprintf(totals.failure, sizeof totals.failure, "%.180s", why);
    } else if (c->stalled) {
        totals.stalled_closed_count++;
    } else {
        if (!totals.closed_count++) snprintf(totals.failure, sizeof totals.failure, "%.180s", why);
    }
    progress->closed++;
    c->state = CLOSED;
    close(c->fd);
    c->fd = -1;
    free(c->line);
    c->line = NULL;
    c->line_size = c->line_room = 0;
}

void connection_ready(struct connection *c) {
    uint64_t now = clock_us();
    c->state = READY;
    progress->ready++;
    totals.storm_last_us = now;
    histogram_add(&totals.handshake, now - c->began_us);
}

static bool bind_source(int fd) {
    if (!*options.source) return true;
    struct sockaddr_in source = {.sin_family = AF_INET};
    int on = 1;
    /* The port is chosen by connect(), so that one may be used towards several servers. */
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    return inet_pton(AF_INET, options.source, &source.sin_addr) == 1 &&
           bind(fd, (struct sockaddr *)&source, sizeof source) == 0;
}

static bool prepare(struct connection *c) {
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0) return false;
    int on = 1;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (c->stalled) {
        int size = options.receive_buffer;
        setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    }
    return bind_source(c->fd);
}

void connection_open(struct connection *c, int epoll, uint32_t index, const char *session) {
    c->state = CONNECTING;
    c->began_us = clock_us();
    if (!totals.storm_first_us) totals.storm_first_us = c->began_us;
    char request[1024];
    int size = snprintf(request, sizeof request,
                        "GET %s HTTP/1.1\r\nHost: %s:%d\r\nOrigin: http://%s:%d\r\nUpgrade: websocket\r\n"
                        "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n%s%s%s%s%s%s\r\n",
                        options.path, options.host, options.port, options.host, options.port,
                        *options.subprotocol ? "Sec-WebSocket-Protocol: " : "", options.subprotocol,
                        *options.subprotocol ? "\r\n" : "", session ? "Cookie: sessionid=" : "",
                        session ? session : "", session ? "\r\n" : "");
    struct sockaddr_in server = {.sin_family = AF_INET, .sin_port = htons((uint16_t)options.port)};
    inet_pton(AF_INET, options.host, &server.sin_addr);
    if (size >= (int)sizeof request || !prepare(c)) {
        connection_fail(c, size >= (int)sizeof request ? "the request is too long" : strerror(errno));
        return;
    }
    if (connect(c->fd, (struct sockaddr *)&server, sizeof server) && errno != EINPROGRESS) {
        connection_fail(c, strerror(errno));
        return;
    }
    /* Kept until the socket can be written. */
    line_append(c, request, (size_t)size);
    struct epoll_event event = {.events = EPOLLOUT, .data.u32 = index};
    epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &event);
}

/* What a client says here is short and rare: a socket whose buffer cannot take it is given up. */
void connection_send(struct connection *c, uint8_t opcode, const char *data, size_t size) {
    char frame[8 + 512];
    if (size > 512) {
        connection_fail(c, "the client's frame is too long");
        return;
    }
    size_t head = 2;
    frame[0] = (char)(128 | opcode);
    frame[1] = (char)(128 | (size < 126 ? size : 126));
    if (size >= 126) {
        frame[2] = (char)(size >> 8);
        frame[3] = (char)size;
        head = 4;
    }
    /* The mask 0 leaves the payload as it is. */
    memset(frame + head, 0, 4);
    memcpy(frame + head + 4, data, size);
    size += head + 4;
    if (send(c->fd, frame, size, MSG_NOSIGNAL) != (ssize_t)size) connection_fail(c, "the server takes no frames");
}

static void start_handshake(struct connection *c, int epoll, uint32_t index) {
    int error = 0;
    socklen_t error_size = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &error_size);
    if (error || send(c->fd, c->line, c->line_size, MSG_NOSIGNAL) != (ssize_t)c->line_size) {
        connection_fail(c, strerror(error ? error : errno));
        return;
    }
    c->line_size = 0;
    c->state = HANDSHAKE;
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = index};
    epoll_ctl(epoll, EPOLL_CTL_MOD, c->fd, &event);
}

/* Returns how many of the bytes belonged to the answer, or -1 at the end of the connection. */
static ssize_t take_handshake(struct connection *c, const char *data, size_t size) {
    uint32_t before = c->line_size;
    if (!line_append(c, data, size)) return -1;
    const char *end = memmem(c->line, c->line_size, "\r\n\r\n", 4);
    if (!end) return (ssize_t)size;
    if (memcmp(c->line, "HTTP/1.1 101", 12) != 0) {
        c->line[c->line_size < 120 ? c->line_size - 1 : 120] = 0;
        connection_fail(c, c->line);
        return -1;
    }
    ssize_t used = end + 4 - c->line - (ssize_t)before;
    c->line_size = 0;
    c->state = JOINING;
    if (!*options.ready) connection_ready(c);
    return used;
}

static void take_bytes(struct connection *c, ssize_t size) {
    ssize_t used = c->state == HANDSHAKE ? take_handshake(c, buffer, (size_t)size) : 0;
    if (used < 0 || (used < size && !frames_feed(c, buffer + used, (size_t)(size - used)))) {
        connection_fail(c, "the server closed the connection");
    }
}

void connection_event(struct connection *c, int epoll, uint32_t index, uint32_t events) {
    if (c->state == CONNECTING) {
        start_handshake(c, epoll, index);
        return;
    }
    if (c->stalled && c->state == READY && !(events & EPOLLIN)) {
        connection_fail(c, "cut");
        return;
    }
    ssize_t size = recv(c->fd, buffer, sizeof buffer, 0);
    now_us = clock_us();
    if (size <= 0) {
        if (size < 0 && (errno == EAGAIN || errno == EINTR)) return;
        connection_fail(c, size ? strerror(errno) : "the server closed the connection without a close frame");
        return;
    }
    totals.bytes += (uint64_t)size;
    take_bytes(c, size);
    if (c->stalled && c->state == READY) {
        /* Only told of its end from now on. */
        struct epoll_event event = {.events = 0, .data.u32 = index};
        epoll_ctl(epoll, EPOLL_CTL_MOD, c->fd, &event);
    }
}
