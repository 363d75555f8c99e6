/*
 * Options, event loop, and the talk with the benchmark: one command a line on stdin, one JSON object a line on stdout.
 *
 *   connect            open all connections; answered when each is ready or has failed
 *   reset              begin a run: counters to zero
 *   report EXPECTED    what the run has counted, with what is missing of EXPECTED messages a connection
 *   drain              read what stalled connections were sent, to see which have been closed
 *   go                 begin a run with a map: as reset, and viewers begin to move
 *   map FIRST LAST     what the run with a map has counted, against the truth of these seconds
 *   verify LAST        at rest: what each viewer of a map has, against the truth of this second
 *   quit               close everything
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "load.h"

#define EVENTS 512
#define STDIN_INDEX UINT32_MAX

struct options options = {.host = "127.0.0.1", .path = "/", .cookies = "", .join = "", .ready = "", .subprotocol = "",
                          .source = "", .connections = 1, .in_flight = 64, .receive_buffer = 4096};
struct totals totals;
struct progress *progress;
uint64_t now_us;

static struct connection *connections;
static char **sessions;
static size_t session_count;
static int epoll, opened_count;
static bool is_connecting;
static struct rusage usage_before;
static uint64_t run_began_us;

uint64_t clock_us(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u;
}

static void die(const char *what) {
    fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
    exit(1);
}

/* The file has one "user id<TAB>session" a line. */
static void read_sessions(void) {
    if (!*options.cookies) return;
    FILE *file = fopen(options.cookies, "r");
    if (!file) die(options.cookies);
    char *line = NULL;
    size_t room = 0;
    ssize_t size;
    while ((size = getline(&line, &room, file)) > 0) {
        if (line[size - 1] == '\n') line[size - 1] = 0;
        char *tab = strchr(line, '\t');
        if (!tab) continue;
        sessions = realloc(sessions, (session_count + 1) * sizeof *sessions);
        sessions[session_count++] = strdup(tab + 1);
    }
    free(line);
    fclose(file);
    if (session_count < (size_t)options.connections) die("there are fewer sessions than connections");
}

static void open_some(void) {
    while (opened_count < options.connections) {
        int done = (int)(progress->ready + totals.failed_count);
        if (opened_count - done >= options.in_flight) return;
        struct connection *c = &connections[opened_count];
        c->stalled = opened_count >= options.connections - options.stalled;
        connection_open(c, epoll, (uint32_t)opened_count, session_count ? sessions[opened_count] : NULL);
        opened_count++;
    }
}

static void finish_connecting(void) {
    if (!is_connecting || (int)(progress->ready + totals.failed_count) < options.connections) return;
    is_connecting = false;
    double seconds = (double)(totals.storm_last_us - totals.storm_first_us) / 1e6;
    printf("{\"ready_count\":%llu,\"failed_count\":%llu,\"failure\":\"", (unsigned long long)progress->ready,
           (unsigned long long)totals.failed_count);
    for (const char *p = totals.failure; *p; p++) putchar(*p < ' ' || *p == '"' || *p == '\\' ? ' ' : *p);
    printf("\",\"seconds\":%.6f,\"p50_us\":%llu,\"p99_us\":%llu,\"max_us\":%llu}\n", seconds,
           (unsigned long long)histogram_at(&totals.handshake, 0.5),
           (unsigned long long)histogram_at(&totals.handshake, 0.99), (unsigned long long)totals.handshake.max);
    fflush(stdout);
}

static void reset(bool goes) {
    uint64_t closed = totals.closed_count, stalled = totals.stalled_closed_count;
    memset(&totals, 0, sizeof totals);
    totals.closed_count = closed;
    totals.stalled_closed_count = stalled;
    for (int index = 0; index < options.connections; index++) connections[index].last = connections[index].received = 0;
    progress->delivered = 0;
    getrusage(RUSAGE_SELF, &usage_before);
    run_began_us = clock_us();
    if (options.views) map_reset(goes);
    printf("{}\n");
    fflush(stdout);
}

static double seconds_of(struct timeval now, struct timeval before) {
    return (double)(now.tv_sec - before.tv_sec) + (double)(now.tv_usec - before.tv_usec) / 1e6;
}

static void report(uint64_t expected) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    uint64_t lost = 0, received = 0;
    for (int index = 0; index < options.connections; index++) {
        if (connections[index].stalled) continue;
        received += connections[index].received;
        if (connections[index].received < expected) lost += expected - connections[index].received;
    }
    printf("{\"received_count\":%llu,\"lost_count\":%llu,\"duplicate_count\":%llu,\"disordered_count\":%llu,",
           (unsigned long long)received, (unsigned long long)lost, (unsigned long long)totals.duplicates,
           (unsigned long long)totals.disordered);
    printf("\"closed_count\":%llu,\"stalled_closed_count\":%llu,\"last_close_code\":%d,\"frame_count\":%llu,"
           "\"received_bytes\":%llu,", (unsigned long long)totals.closed_count,
           (unsigned long long)totals.stalled_closed_count, totals.last_close_code, (unsigned long long)totals.frames,
           (unsigned long long)totals.bytes);
    printf("\"first_us\":%llu,\"last_us\":%llu,\"p50_us\":%llu,\"p99_us\":%llu,\"max_us\":%llu,",
           (unsigned long long)totals.first_us, (unsigned long long)totals.last_us,
           (unsigned long long)histogram_at(&totals.latency, 0.5),
           (unsigned long long)histogram_at(&totals.latency, 0.99), (unsigned long long)totals.latency.max);
    double seconds = (double)(clock_us() - run_began_us) / 1e6;
    printf("\"client_cpu_seconds\":%.6f,\"run_seconds\":%.6f}\n",
           seconds_of(usage.ru_utime, usage_before.ru_utime) + seconds_of(usage.ru_stime, usage_before.ru_stime),
           seconds);
    fflush(stdout);
}

/* Stalled connections read from now on, as others do; what comes is not counted as theirs. */
static void drain(void) {
    for (int index = options.connections - options.stalled; index < options.connections; index++) {
        struct connection *c = &connections[index];
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = (uint32_t)index};
        if (c->state == READY) epoll_ctl(epoll, EPOLL_CTL_MOD, c->fd, &event);
    }
    uint64_t until = clock_us() + 2000000;
    struct epoll_event events[EVENTS];
    while (clock_us() < until) {
        int count = epoll_wait(epoll, events, EVENTS, 100);
        for (int at = 0; at < count; at++) {
            struct connection *c = &connections[events[at].data.u32];
            if (events[at].data.u32 == STDIN_INDEX || c->state == CLOSED) continue;
            connection_event(c, epoll, events[at].data.u32, events[at].events);
            if (c->stalled && c->state == READY) epoll_ctl(epoll, EPOLL_CTL_MOD, c->fd, &(struct epoll_event){
                .events = EPOLLIN, .data.u32 = events[at].data.u32});
        }
    }
    printf("{}\n");
    fflush(stdout);
}

static void command(const char *line) {
    uint32_t first, last;
    if (strncmp(line, "connect", 7) == 0) {
        is_connecting = true;
    } else if (strncmp(line, "reset", 5) == 0) {
        reset(false);
    } else if (strncmp(line, "go", 2) == 0) {
        reset(true);
    } else if (sscanf(line, "map %u %u", &first, &last) == 2) {
        map_report(first, last);
    } else if (sscanf(line, "verify %u", &last) == 1) {
        map_verify(last);
    } else if (strncmp(line, "report ", 7) == 0) {
        report(strtoull(line + 7, NULL, 10));
    } else if (strncmp(line, "drain", 5) == 0) {
        drain();
    } else {
        exit(0);
    }
}

static void run(void) {
    struct epoll_event events[EVENTS];
    struct epoll_event input = {.events = EPOLLIN, .data.u32 = STDIN_INDEX};
    epoll_ctl(epoll, EPOLL_CTL_ADD, STDIN_FILENO, &input);
    while (true) {
        int count = epoll_wait(epoll, events, EVENTS, options.views ? map_timeout_ms() : -1);
        for (int at = 0; at < count; at++) {
            uint32_t index = events[at].data.u32;
            if (index == STDIN_INDEX) {
                char line[128];
                if (!fgets(line, sizeof line, stdin)) return;
                command(line);
            } else if (connections[index].state != CLOSED) {
                connection_event(&connections[index], epoll, index, events[at].events);
            }
        }
        if (options.views) map_move();
        if (is_connecting) open_some();
        finish_connecting();
    }
}

static void read_options(int count, char **words) {
    static const struct option known[] = {
        {"host", 1, 0, 'h'}, {"port", 1, 0, 'p'}, {"path", 1, 0, 'u'}, {"connections", 1, 0, 'n'},
        {"cookies", 1, 0, 'c'}, {"join", 1, 0, 'j'}, {"ready", 1, 0, 'r'}, {"subprotocol", 1, 0, 's'},
        {"progress", 1, 0, 'g'}, {"source", 1, 0, 'a'}, {"in-flight", 1, 0, 'f'}, {"stalled", 1, 0, 't'},
        {"engine-io", 0, 0, 'e'}, {"views", 1, 0, 'v'}, {"drops-outside", 0, 0, 'd'}, {0, 0, 0, 0}};
    int letter;
    while ((letter = getopt_long(count, words, "", known, NULL)) != -1) {
        switch (letter) {
        case 'h': options.host = optarg; break;
        case 'p': options.port = atoi(optarg); break;
        case 'u': options.path = optarg; break;
        case 'n': options.connections = atoi(optarg); break;
        case 'c': options.cookies = optarg; break;
        case 'j': options.join = optarg; break;
        case 'r': options.ready = optarg; break;
        case 's': options.subprotocol = optarg; break;
        case 'g': options.progress = optarg; break;
        case 'a': options.source = optarg; break;
        case 'f': options.in_flight = atoi(optarg); break;
        case 't': options.stalled = atoi(optarg); break;
        case 'e': options.engine_io = true; break;
        case 'v': options.views = optarg; break;
        case 'd': options.drops_outside = true; break;
        default: exit(2);
        }
    }
    if (!options.progress || options.connections < 1 || strncmp(options.host, "127.", 4) != 0) {
        fprintf(stderr, "load: --progress FILE and a --host on the loopback are needed\n");
        exit(2);
    }
}

int main(int count, char **words) {
    read_options(count, words);
    /* Commands are read by lines, and epoll must see what is not read yet. */
    setvbuf(stdin, NULL, _IONBF, 0);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    int file = open(options.progress, O_RDWR);
    if (file < 0) die(options.progress);
    progress = mmap(NULL, sizeof *progress, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (progress == MAP_FAILED) die("mmap");
    read_sessions();
    connections = calloc((size_t)options.connections, sizeof *connections);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    if (!connections || epoll < 0) die("memory or epoll");
    for (int index = 0; index < options.connections; index++) connections[index].index = (uint32_t)index;
    if (options.views) map_init(connections);
    run();
    return 0;
}
