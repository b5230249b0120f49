/* A device with libstrophe 0.12 or newer: device JID HOST:PORT JOURNAL
 *
 * Applies each event by appending it to JOURNAL as one JSON line, and prints it. The password comes from UNPOLL_PASSWORD,
 * the file with the certificate authority from SSL_CERT_FILE. */

#define _POSIX_C_SOURCE 200809L

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <strophe.h>

#define EVENT "urn:unpoll:event:1"
#define JSON "urn:xmpp:json:0"
#define RECEIPTS "urn:xmpp:receipts"
#define PING "urn:xmpp:ping"
#define LANES_MAX 64

static void give_up(const char *why) {
    fprintf(stderr, "%s\n", why);
    exit(1);
}

/* What was applied. One append applies an event and remembers its number: both or neither survive a crash. */

static FILE *journal;
static struct lane { char name[64]; unsigned long long last; } lanes[LANES_MAX];
static size_t lanes_count;

static struct lane *lane_of(const char *name) {
    for (size_t i = 0; i < lanes_count; i++)
        if (strcmp(lanes[i].name, name) == 0) return &lanes[i];
    if (lanes_count == LANES_MAX) { /* the oldest is of a store that is gone */
        memmove(lanes, lanes + 1, sizeof lanes - sizeof *lanes);
        lanes_count--;
    }
    struct lane *lane = &lanes[lanes_count++];
    snprintf(lane->name, sizeof lane->name, "%s", name);
    lane->last = 0;
    return lane;
}

static void journal_open(const char *path) {
    char *line = NULL, name[64];
    size_t room = 0;
    long whole = 0;
    unsigned long long seq;
    if (!(journal = fopen(path, "a+"))) give_up("the journal cannot be opened");
    rewind(journal);
    for (ssize_t length; (length = getline(&line, &room, journal)) > 0 && line[length - 1] == '\n'; whole += length)
        if (sscanf(line, "{\"id\":\"%*[^\"]\",\"lane\":\"%63[^\"]\",\"seq\":%llu", name, &seq) == 2) lane_of(name)->last = seq;
    free(line);
    if (ftruncate(fileno(journal), whole)) give_up("the journal cannot be cut"); /* a line that a crash cut short was not applied */
    fseek(journal, 0, SEEK_END);
}

static void apply(const char *id, const char *name, unsigned long long seq, char *json) {
    struct lane *lane = lane_of(name);
    if (seq <= lane->last) return; /* a repeat: it is acknowledged again, never applied again */
    for (char *at = json; *at; at++)
        if (*at == '\n' || *at == '\r') *at = ' '; /* between the parts of the JSON; within a string they are escaped */
    fprintf(journal, "{\"id\":\"%s\",\"lane\":\"%s\",\"seq\":%llu,\"event\":%s}\n", id, name, seq, json);
    if (fflush(journal) || fsync(fileno(journal))) give_up("the journal cannot be written"); /* and nothing is acknowledged */
    lane->last = seq;
    printf("{\"id\":\"%s\",\"lane\":\"%s\",\"seq\":%llu,\"event\":%s}\n", id, name, seq, json);
    fflush(stdout);
}

/* libstrophe counts a stanza, and answers <r/>, after these handlers have returned: what is acknowledged is applied. */

static int on_message(xmpp_conn_t *conn, xmpp_stanza_t *message, void *data) {
    (void)data;
    xmpp_ctx_t *ctx = xmpp_conn_get_context(conn);
    xmpp_stanza_t *event = xmpp_stanza_get_child_by_name_and_ns(message, "event", EVENT);
    xmpp_stanza_t *payload = event ? xmpp_stanza_get_child_by_name_and_ns(event, "json", JSON) : NULL;
    const char *id = event ? xmpp_stanza_get_attribute(event, "id") : NULL;
    const char *lane = event ? xmpp_stanza_get_attribute(event, "lane") : NULL;
    const char *seq = event ? xmpp_stanza_get_attribute(event, "seq") : NULL;
    char *json = payload ? xmpp_stanza_get_text(payload) : NULL;
    if (!json || !id || !lane || !seq) return 1; /* no event */
    apply(id, lane, strtoull(seq, NULL, 10), json);
    xmpp_free(ctx, json);
    if (xmpp_stanza_get_child_by_name_and_ns(message, "request", RECEIPTS)) {
        xmpp_stanza_t *receipt = xmpp_message_new(ctx, NULL, xmpp_stanza_get_from(message), NULL);
        xmpp_stanza_t *received = xmpp_stanza_new(ctx);
        xmpp_stanza_set_name(received, "received");
        xmpp_stanza_set_ns(received, RECEIPTS);
        xmpp_stanza_set_id(received, id);
        xmpp_stanza_add_child(receipt, received);
        xmpp_stanza_release(received);
        xmpp_send(conn, receipt);
        xmpp_stanza_release(receipt);
    }
    return 1; /* keep this handler */
}

static int on_ping(xmpp_conn_t *conn, xmpp_stanza_t *ping, void *data) {
    (void)data;
    xmpp_stanza_t *pong = xmpp_stanza_reply(ping);
    xmpp_stanza_set_type(pong, "result");
    xmpp_send(conn, pong);
    xmpp_stanza_release(pong);
    return 1;
}

struct connection { int was_online; xmpp_sm_state_t *session; };

static void on_change(xmpp_conn_t *conn, xmpp_conn_event_t change, int error, xmpp_stream_error_t *stream_error, void *data) {
    struct connection *connection = data;
    xmpp_ctx_t *ctx = xmpp_conn_get_context(conn);
    if (change == XMPP_CONN_CONNECT) {
        connection->was_online = 1;
        xmpp_handler_add(conn, on_message, NULL, "message", NULL, NULL);
        xmpp_handler_add(conn, on_ping, PING, "iq", "get", NULL);
        xmpp_stanza_t *presence = xmpp_presence_new(ctx); /* "I can take events"; after a resumption it changes nothing */
        xmpp_send(conn, presence);
        xmpp_stanza_release(presence);
        return;
    }
    if (stream_error && stream_error->type == XMPP_SE_CONFLICT) give_up("another connection of this device took over");
    if (!connection->was_online && !error && !stream_error) give_up("the password is wrong"); /* it ended without a fault */
    connection->session = xmpp_conn_get_sm_state(conn); /* to resume with */
    xmpp_stop(ctx);
}

int main(int argc, char **argv) {
    char *colon = argc == 4 ? strrchr(argv[2], ':') : NULL;
    const char *password = getenv("UNPOLL_PASSWORD"), *authority = getenv("SSL_CERT_FILE");
    if (!colon || !password) give_up("usage: device JID HOST:PORT JOURNAL, with UNPOLL_PASSWORD and SSL_CERT_FILE");
    *colon = '\0';
    journal_open(argv[3]);
    srand((unsigned)(time(NULL) ^ getpid()));
    xmpp_initialize();
    xmpp_ctx_t *ctx = xmpp_ctx_new(NULL, xmpp_get_default_logger(XMPP_LEVEL_WARN));
    xmpp_sm_state_t *session = NULL;
    for (unsigned pause_ms = 1000;;) {
        struct connection connection = {0, NULL};
        xmpp_conn_t *conn = xmpp_conn_new(ctx);
        xmpp_conn_set_flags(conn, XMPP_CONN_FLAG_MANDATORY_TLS); /* STARTTLS; XMPP_CONN_FLAG_LEGACY_SSL is TLS from the first byte */
        xmpp_conn_set_sockopt_callback(conn, xmpp_sockopt_cb_keepalive); /* notices a peer that is gone */
        xmpp_conn_set_jid(conn, argv[1]);
        xmpp_conn_set_pass(conn, password);
        if (authority) xmpp_conn_set_cafile(conn, authority);
        if (session && xmpp_conn_set_sm_state(conn, session) != XMPP_EOK) xmpp_free_sm_state(session);
        session = NULL;
        if (xmpp_connect_client(conn, argv[2], (unsigned short)atoi(colon + 1), on_change, &connection) == XMPP_EOK) xmpp_run(ctx);
        session = connection.session;
        xmpp_conn_release(conn);
        if (connection.was_online) pause_ms = 1000;
        unsigned pause = pause_ms + (unsigned)rand() % pause_ms; /* jitter: after an outage all devices come at once */
        nanosleep(&(struct timespec){pause / 1000, pause % 1000 * 1000000L}, NULL);
        if (pause_ms < 60000) pause_ms *= 2;
    }
}
