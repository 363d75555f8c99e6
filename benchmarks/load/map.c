/*
 * Viewers of a map: each sends what it sees now, and keeps all vehicles that it was told of.
 *
 * A vehicle is a line with "v": its number, "n": the second of the run, "t": the time of publishing and "x":, "y": its
 * place, in this order. Where a vehicle is in which second, and which viewer looks where and when, is in files that the
 * benchmark writes (benchmarks/map/files.py), so that everything that arrives, and everything that does not, can be
 * compared with the truth. Frames between live ones that hold a snapshot say so: our own by the header of a view, those
 * of the others by a line with "snapshot", and one with "done" and the number of the move at its end.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "load.h"

/* Longitudes and latitudes are rounded on their way. */
#define TOLERANCE 2
/* As in benchmarks/map/payloads.py: so that every number has equally many digits. */
#define VEHICLE_BASE 100000
#define SECOND_BASE 1000000

struct place {
    uint32_t x, y;
};

struct move {
    uint32_t at_ms, viewer;
    int32_t exact[4], allowed[4];
    char frame[320];
};

/* What a viewer knows of a vehicle: the second of the newest update plus one, 0 for nothing. */
struct known {
    uint32_t now, highest;
};

struct viewer {
    struct known *known;
    const struct move *view;
    uint64_t asked_us;
    uint32_t asked_number, next_number;
    bool is_live, is_complete, has_asked, is_reset;
    uint32_t number;
    uint8_t *named;            /* a bit for each vehicle of a reset batch */
    struct sent { uint64_t at_us; const struct move *view; } *sent;
    size_t sent_count;
};

static struct {
    uint64_t needed, needed_bytes, entered, entered_exact, lines, line_bytes, skipped, backwards, repeated, leaves;
    struct histogram age, answer;
} counts;

static const struct place *places;
static const struct move *moves;
static const uint32_t *feed_of;
static const uint64_t *times;
static size_t move_count, next_move, vehicle_count, feed_count, tick_count;
static struct viewer *viewers;
static uint32_t *latest;
static struct connection *all;
static uint64_t went_us;

static const void *map_file(const char *name, size_t *size) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", options.views, name);
    int file = open(path, O_RDONLY);
    struct stat status;
    if (file < 0 || fstat(file, &status)) {
        perror(path);
        exit(1);
    }
    *size = (size_t)status.st_size;
    void *memory = mmap(NULL, *size, PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (memory == MAP_FAILED) exit(1);
    return memory;
}

void map_init(struct connection *connections) {
    size_t size;
    all = connections;
    feed_of = map_file("feeds", &size);
    vehicle_count = size / sizeof *feed_of;
    for (size_t vehicle = 0; vehicle < vehicle_count; vehicle++) {
        if (feed_of[vehicle] >= feed_count) feed_count = feed_of[vehicle] + 1;
    }
    places = map_file("places", &size);
    times = map_file("times", &size);
    tick_count = size / sizeof *times / feed_count;
    moves = map_file("moves", &size);
    move_count = size / sizeof *moves;
    latest = calloc(vehicle_count, sizeof *latest);
    viewers = calloc((size_t)options.connections, sizeof *viewers);
    for (int index = 0; index < options.connections; index++) {
        viewers[index].known = calloc(vehicle_count, sizeof *viewers->known);
        viewers[index].named = calloc(vehicle_count / 8 + 1, 1);
    }
    /* The first views are sent when a connection is open. */
    while (next_move < move_count && !moves[next_move].at_ms) {
        if (moves[next_move].viewer < (uint32_t)options.connections) {
            viewers[moves[next_move].viewer].view = &moves[next_move];
        }
        next_move++;
    }
}

static bool inside(const int32_t *box, struct place place, int32_t margin) {
    int32_t x = (int32_t)place.x, y = (int32_t)place.y;
    return x >= box[0] - margin && y >= box[1] - margin && x <= box[2] + margin && y <= box[3] + margin;
}

static struct place place_of(size_t vehicle, uint32_t tick) {
    return places[(tick % MAP_PERIOD) * vehicle_count + vehicle];
}

static void send_view(struct connection *c, struct viewer *viewer, const struct move *move) {
    viewer->view = move;
    viewer->asked_us = clock_us();
    viewer->asked_number = ++viewer->next_number;
    viewer->has_asked = true;
    viewer->sent = realloc(viewer->sent, (viewer->sent_count + 1) * sizeof *viewer->sent);
    viewer->sent[viewer->sent_count++] = (struct sent){viewer->asked_us, move};
    char frame[400];
    int size = 0;
    /* The only thing that is not known before: how many there were. */
    for (const char *from = move->frame; *from && size < 380; from++) {
        if (*from == '#') size += sprintf(frame + size, "%u", viewer->asked_number);
        else frame[size++] = *from;
    }
    connection_send(c, 1, frame, (size_t)size);
}

/* What comes into sight must be sent to a client that is sent exactly what it sees. */
static void change_view(struct connection *c, const struct move *move) {
    struct viewer *viewer = &viewers[c->index];
    const struct move *before = viewer->view;
    for (size_t vehicle = 0; vehicle < vehicle_count; vehicle++) {
        struct known *known = &viewer->known[vehicle];
        if (!latest[vehicle]) continue;
        struct place now = place_of(vehicle, latest[vehicle] - 1);
        if (inside(move->exact, now, 0) && !inside(before->exact, now, 0)) counts.entered_exact++;
        if (known->now && options.drops_outside && !inside(move->allowed, place_of(vehicle, known->now - 1), 0)) {
            known->now = 0;
        }
    }
    send_view(c, viewer, move);
}

int map_timeout_ms(void) {
    if (!went_us || next_move == move_count) return -1;
    uint64_t due = went_us + moves[next_move].at_ms * 1000ULL, now = clock_us();
    return due <= now ? 0 : (int)((due - now + 999) / 1000);
}

void map_move(void) {
    if (!went_us) return;
    uint64_t now = clock_us();
    for (; next_move < move_count && went_us + moves[next_move].at_ms * 1000ULL <= now; next_move++) {
        uint32_t index = moves[next_move].viewer;
        if (index < (uint32_t)options.connections && all[index].state == READY) change_view(&all[index], &moves[next_move]);
    }
}

void map_open(struct connection *c) {
    if (viewers[c->index].next_number) return;
    c->began_us = clock_us();
    send_view(c, &viewers[c->index], viewers[c->index].view);
}

static uint64_t number_after(const char *line, size_t size, const char *key) {
    const char *found = memmem(line, size, key, strlen(key));
    if (!found) return 0;
    uint64_t value = 0;
    const char *end = line + size;
    for (found += strlen(key); found < end && (*found < '0' || *found > '9'); found++) {}
    for (; found < end && *found >= '0' && *found <= '9'; found++) value = value * 10 + (uint64_t)(*found - '0');
    return value;
}

static uint64_t digits(const char **at, const char *end) {
    uint64_t value = 0;
    const char *p = *at;
    while (p < end && (*p < '0' || *p > '9')) p++;
    while (p < end && *p >= '0' && *p <= '9') value = value * 10 + (uint64_t)(*p++ - '0');
    *at = p;
    return value;
}

static void finish_batch(struct connection *c, struct viewer *viewer) {
    if (viewer->is_reset) {
        for (size_t vehicle = 0; vehicle < vehicle_count; vehicle++) {
            if (!(viewer->named[vehicle / 8] & 1 << vehicle % 8)) viewer->known[vehicle].now = 0;
        }
        viewer->is_reset = false;
    }
    if (!viewer->has_asked || viewer->number < viewer->asked_number) return;
    viewer->has_asked = false;
    if (c->state == JOINING) connection_ready(c);
    else histogram_add(&counts.answer, now_us - viewer->asked_us);
}

static void name(struct viewer *viewer, size_t vehicle) {
    if (viewer->is_reset) viewer->named[vehicle / 8] |= (uint8_t)(1 << vehicle % 8);
}

static void take_vehicle(struct viewer *viewer, const char *p, const char *end, size_t size) {
    size_t vehicle = digits(&p, end) - VEHICLE_BASE;
    uint32_t tick = (uint32_t)digits(&p, end) - SECOND_BASE + 1;
    uint64_t sent = digits(&p, end) - TIME_BASE;
    struct place place;
    place.x = (uint32_t)digits(&p, end);
    place.y = (uint32_t)digits(&p, end);
    if (vehicle >= vehicle_count) {
        totals.other_lines++;
        return;
    }
    struct known *known = &viewer->known[vehicle];
    if (tick > latest[vehicle]) latest[vehicle] = tick;
    counts.lines++;
    counts.line_bytes += size + 1;
    progress->delivered++;
    name(viewer, vehicle);
    if (tick < known->highest) {
        counts.backwards++;
        return;
    }
    bool is_inside = inside(viewer->view->exact, place, 0);
    if (known->now == tick) {
        counts.repeated++;
    } else if (viewer->is_live) {
        bool was_inside = known->now && inside(viewer->view->exact, place_of(vehicle, known->now - 1), 0);
        if (known->now) counts.skipped += tick - known->now - 1;
        if (is_inside || was_inside) {
            counts.needed++;
            counts.needed_bytes += size + 1;
            if (!is_inside) counts.leaves++;
            histogram_add(&counts.age, now_us > sent ? now_us - sent : 0);
        }
    } else {
        counts.entered++;
    }
    known->highest = tick;
    known->now = options.drops_outside && !inside(viewer->view->allowed, place, 0) ? 0 : tick;
}

/* A line of ours with the keys of vehicles: "left", or "same". */
static void take_keys(struct viewer *viewer, const char *line, const char *end, bool has_left) {
    const char *p = memmem(line, (size_t)(end - line), "\"keys\":[", 8);
    if (!p) return;
    p += 8;
    while (p < end) {
        size_t vehicle = digits(&p, end) - VEHICLE_BASE;
        if (vehicle >= vehicle_count) return;
        struct known *known = &viewer->known[vehicle];
        if (!has_left) {
            name(viewer, vehicle);
            continue;
        }
        if (viewer->is_live && known->now && inside(viewer->view->exact, place_of(vehicle, known->now - 1), 0)) {
            counts.needed++;
            counts.leaves++;
            counts.needed_bytes += 9;
        }
        known->now = 0;
    }
}

static bool begins(const char *line, size_t size, const char *words) {
    return size >= strlen(words) && memcmp(line, words, strlen(words)) == 0;
}

static void take_header(struct viewer *viewer, const char *line, size_t size) {
    uint32_t number = (uint32_t)number_after(line, size, "\"number\":");
    viewer->is_live = memmem(line, size, "\"batch\":\"changes\"", 17) != NULL;
    viewer->is_complete = memmem(line, size, "\"complete\":true", 15) != NULL && !viewer->is_live;
    bool is_reset = memmem(line, size, "\"batch\":\"reset\"", 15) != NULL;
    if (is_reset && (!viewer->is_reset || number != viewer->number)) memset(viewer->named, 0, vehicle_count / 8 + 1);
    viewer->is_reset = is_reset;
    viewer->number = number;
}

/* Socket.IO's snapshot is one line. */
static void take_array(struct viewer *viewer, const char *line, size_t size) {
    const char *end = line + size;
    viewer->is_live = false;
    while ((line = memmem(line, (size_t)(end - line), "{\"v\":", 5))) {
        const char *next = memchr(line, '}', (size_t)(end - line));
        if (!next) return;
        take_vehicle(viewer, line + 5, next, (size_t)(next - line));
        line = next;
    }
}

/* True if the line was one of the map's. */
bool map_line(struct connection *c, const char *line, size_t size) {
    struct viewer *viewer = &viewers[c->index];
    static size_t learned;
    const char *found = NULL;
    if (begins(line, size, "42[\"snapshot\"")) {
        take_array(viewer, line, size);
        return true;
    }
    if (learned && size > learned && memcmp(line + size - learned, "\"v\":", 4) == 0) {
        found = line + size - learned;
    } else if (size > 60 && (found = memmem(line, size, "\"v\":", 4))) {
        learned = size - (size_t)(found - line);
    }
    if (found) {
        take_vehicle(viewer, found + 4, line + size, size);
    } else if (begins(line, size, "{\"type\":\"view\"")) {
        take_header(viewer, line, size);
    } else if (begins(line, size, "{\"type\":\"left\"") || begins(line, size, "{\"type\":\"same\"")) {
        take_keys(viewer, line, line + size, line[9] == 'l');
    } else if (size < 64 && memmem(line, size, "\"snapshot\"", 10)) {
        viewer->is_live = false;
    } else if (size < 64 && memmem(line, size, "\"done\"", 6)) {
        viewer->is_live = viewer->is_complete = true;
        viewer->number = (uint32_t)number_after(line, size, "\"done\"");
    } else {
        return false;
    }
    return true;
}

void map_frame_end(struct connection *c) {
    struct viewer *viewer = &viewers[c->index];
    if (!viewer->is_complete) return;
    viewer->is_complete = false;
    finish_batch(c, viewer);
}

void map_reset(bool goes) {
    memset(&counts, 0, sizeof counts);
    for (int index = 0; index < options.connections; index++) viewers[index].sent_count = 0;
    for (int index = 0; index < options.connections; index++) {
        struct viewer *viewer = &viewers[index];
        viewer->sent = realloc(viewer->sent, sizeof *viewer->sent);
        viewer->sent[viewer->sent_count++] = (struct sent){0, viewer->view};
    }
    if (goes) went_us = clock_us();
}

/* How many changes there were in all boxes, by the truth: updates of what is in it, or was before. */
static uint64_t expected(uint32_t first, uint32_t last) {
    uint64_t found = 0;
    for (int index = 0; index < options.connections; index++) {
        struct viewer *viewer = &viewers[index];
        if (all[index].state != READY) continue;
        for (uint32_t tick = first; tick <= last && tick < tick_count; tick++) {
            const struct place *now = &places[(tick % MAP_PERIOD) * vehicle_count];
            const struct place *before = &places[((tick + MAP_PERIOD - 1) % MAP_PERIOD) * vehicle_count];
            const struct move *view = NULL;
            for (size_t vehicle = 0, feed = SIZE_MAX; vehicle < vehicle_count; vehicle++) {
                if (feed_of[vehicle] != feed) {
                    feed = feed_of[vehicle];
                    uint64_t at = times[tick * feed_count + feed];
                    view = viewer->sent[0].view;
                    for (size_t move = 1; move < viewer->sent_count && viewer->sent[move].at_us <= at; move++) {
                        view = viewer->sent[move].view;
                    }
                }
                found += inside(view->exact, now[vehicle], 0) || inside(view->exact, before[vehicle], 0);
            }
        }
    }
    return found;
}

void map_report(uint32_t first, uint32_t last) {
    printf("{\"needed_count\":%llu,\"needed_bytes\":%llu,\"leave_count\":%llu,\"entered_count\":%llu,",
           (unsigned long long)counts.needed, (unsigned long long)counts.needed_bytes,
           (unsigned long long)counts.leaves, (unsigned long long)counts.entered);
    printf("\"entered_exact_count\":%llu,\"line_count\":%llu,\"line_bytes\":%llu,\"skipped_count\":%llu,",
           (unsigned long long)counts.entered_exact, (unsigned long long)counts.lines,
           (unsigned long long)counts.line_bytes, (unsigned long long)counts.skipped);
    printf("\"backwards_count\":%llu,\"repeated_count\":%llu,\"expected_count\":%llu,\"age_p50_us\":%llu,",
           (unsigned long long)counts.backwards, (unsigned long long)counts.repeated,
           (unsigned long long)expected(first, last), (unsigned long long)histogram_at(&counts.age, 0.5));
    printf("\"age_p99_us\":%llu,\"answer_p50_us\":%llu,\"answer_p99_us\":%llu,\"answer_count\":%llu}\n",
           (unsigned long long)histogram_at(&counts.age, 0.99), (unsigned long long)histogram_at(&counts.answer, 0.5),
           (unsigned long long)histogram_at(&counts.answer, 0.99), (unsigned long long)counts.answer.count);
    fflush(stdout);
}

/* At rest, when `last` was the last second of all vehicles: what each viewer has, against the truth. */
void map_verify(uint32_t last) {
    uint64_t missing = 0, stale = 0, ghosts = 0, held = 0, seen = 0, checked = 0, unanswered = 0;
    for (int index = 0; index < options.connections; index++) {
        struct viewer *viewer = &viewers[index];
        if (all[index].state != READY) continue;
        checked++;
        unanswered += viewer->has_asked;
        for (size_t vehicle = 0; vehicle < vehicle_count; vehicle++) {
            struct place place = place_of(vehicle, last);
            uint32_t now = viewer->known[vehicle].now;
            bool is_inside = inside(viewer->view->exact, place, 0);
            seen += is_inside;
            held += now != 0;
            if (is_inside && !now) missing++;
            if (now && !inside(viewer->view->allowed, place, TOLERANCE)) ghosts++;
            else if (now && now != last + 1) stale++;
        }
    }
    printf("{\"viewer_count\":%llu,\"unanswered_count\":%llu,\"seen_count\":%llu,\"held_count\":%llu,",
           (unsigned long long)checked, (unsigned long long)unanswered, (unsigned long long)seen,
           (unsigned long long)held);
    printf("\"missing_count\":%llu,\"stale_count\":%llu,\"ghost_count\":%llu}\n", (unsigned long long)missing,
           (unsigned long long)stale, (unsigned long long)ghosts);
    fflush(stdout);
}
