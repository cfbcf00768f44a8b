/*
 * A tour of a ZooKeeper server with the stock C client (libzookeeper_mt): synchronous and asynchronous calls, watches,
 * multi, ACLs and authentication, ephemerals, sequences, and a session that survives the loss of its connection.
 *
 * Here: what a C program sees through the library. Not here: bytes on the wire (../conversations).
 * It prints one line per observation; the lines are the same on every correct server, and ../c_suite.py compares them
 * with expected.txt. Every wait has a deadline; the program exits with 2 when one passes.
 *
 * usage: client HOST:PORT
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <zookeeper/zookeeper.h>

#define DEADLINE_S 20
#define SESSION_MS 15000

/* ---- waiting ---------------------------------------------------------------------------------------------------- */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int completions, events, connects;
static char event_text[512];

static void await(const char *what, const int *counter, int least) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += DEADLINE_S;
    pthread_mutex_lock(&lock);
    while (*counter < least) {
        if (pthread_cond_timedwait(&changed, &lock, &until) == ETIMEDOUT) {
            printf("waited in vain for: %s\n", what);
            exit(2);
        }
    }
    pthread_mutex_unlock(&lock);
}

static void count(int *counter) {
    pthread_mutex_lock(&lock);
    ++*counter;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

static const char *event_name(int type) {
    if (type == ZOO_CREATED_EVENT) return "created";
    if (type == ZOO_DELETED_EVENT) return "deleted";
    if (type == ZOO_CHANGED_EVENT) return "changed";
    if (type == ZOO_CHILD_EVENT) return "children";
    return "other";
}

static void session_watcher(zhandle_t *zh, int type, int state, const char *path, void *context) {
    (void)zh, (void)path, (void)context;
    if (type == ZOO_SESSION_EVENT && state == ZOO_CONNECTED_STATE) count(&connects);
}

static void node_watcher(zhandle_t *zh, int type, int state, const char *path, void *context) {
    (void)zh, (void)state;
    if (type == ZOO_SESSION_EVENT) return;
    pthread_mutex_lock(&lock);
    snprintf(event_text, sizeof event_text, "%s %s %s", (const char *)context, event_name(type), path);
    pthread_mutex_unlock(&lock);
    count(&events);
}

static void show_event(int least) {
    await("a watch event", &events, least);
    pthread_mutex_lock(&lock);
    printf("event: %s\n", event_text);
    pthread_mutex_unlock(&lock);
}

static zhandle_t *open_session(const char *host, const clientid_t *id) {
    int before = connects;
    zhandle_t *zh = zookeeper_init(host, session_watcher, SESSION_MS, id, NULL, 0);
    if (!zh) {
        perror("zookeeper_init");
        exit(2);
    }
    await("a connection", &connects, before + 1);
    return zh;
}

/* ---- synchronous calls ------------------------------------------------------------------------------------------ */

static void show_stat(const char *what, int rc, const struct Stat *s) {
    if (rc) {
        printf("%s: %s\n", what, zerror(rc));
    } else {
        printf("%s: version %d cversion %d aversion %d length %d children %d owner %s\n", what, s->version, s->cversion,
               s->aversion, s->dataLength, s->numChildren, s->ephemeralOwner ? "a session" : "none");
    }
}

static void show_data(zhandle_t *zh, const char *path) {
    char data[256];
    int length = sizeof data;
    struct Stat stat;
    int rc = zoo_get(zh, path, 0, data, &length, &stat);
    printf("data of %s: %s %.*s\n", path, zerror(rc), rc || length < 0 ? 0 : length, data);
    show_stat("  its stat", rc, &stat);
}

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static void show_children(zhandle_t *zh, const char *path) {
    struct String_vector names;
    int rc = zoo_get_children(zh, path, 0, &names);
    printf("children of %s: %s", path, zerror(rc));
    if (!rc) {
        qsort(names.data, (size_t)names.count, sizeof *names.data, by_name);
        for (int i = 0; i < names.count; i++) printf(" %s", names.data[i]);
        deallocate_String_vector(&names);
    }
    printf("\n");
}

static void plain_nodes(zhandle_t *zh) {
    char name[128];
    struct Stat stat;
    printf("-- plain nodes\n");
    printf("create: %s\n", zerror(zoo_create(zh, "/c", "hello", 5, &ZOO_OPEN_ACL_UNSAFE, 0, name, sizeof name)));
    printf("create again: %s\n", zerror(zoo_create(zh, "/c", "x", 1, &ZOO_OPEN_ACL_UNSAFE, 0, NULL, 0)));
    printf("create below nothing: %s\n", zerror(zoo_create(zh, "/no/x", "x", 1, &ZOO_OPEN_ACL_UNSAFE, 0, NULL, 0)));
    show_data(zh, "/c");
    printf("set: %s\n", zerror(zoo_set(zh, "/c", "world", 5, 0)));
    printf("set with an old version: %s\n", zerror(zoo_set(zh, "/c", "x", 1, 0)));
    show_stat("set2", zoo_set2(zh, "/c", "again", 5, -1, &stat), &stat);
    printf("null data: %s\n", zerror(zoo_create(zh, "/c/null", NULL, -1, &ZOO_OPEN_ACL_UNSAFE, 0, NULL, 0)));
    show_data(zh, "/c/null");
    int rc = zoo_create2(zh, "/c/two", "22", 2, &ZOO_OPEN_ACL_UNSAFE, 0, name, sizeof name, &stat);
    printf("create2: %s\n", rc ? zerror(rc) : name);
    show_stat("  its stat", rc, &stat);
    for (int i = 0; i < 3; i++) {
        rc = zoo_create(zh, "/c/seq-", "", 0, &ZOO_OPEN_ACL_UNSAFE, ZOO_SEQUENCE, name, sizeof name);
        printf("sequence: %s\n", rc ? zerror(rc) : name);
    }
    rc = zoo_create(zh, "/c/eph-", "", 0, &ZOO_OPEN_ACL_UNSAFE, ZOO_EPHEMERAL | ZOO_SEQUENCE, name, sizeof name);
    printf("ephemeral sequence: %s\n", rc ? zerror(rc) : name);
    show_children(zh, "/c");
    show_stat("exists", zoo_exists(zh, "/c", 0, &stat), &stat);
    show_stat("exists not", zoo_exists(zh, "/nope", 0, &stat), &stat);
    printf("delete with children: %s\n", zerror(zoo_delete(zh, "/c", -1)));
    printf("delete missing: %s\n", zerror(zoo_delete(zh, "/nope", -1)));
    printf("delete with a wrong version: %s\n", zerror(zoo_delete(zh, "/c/two", 7)));
    printf("delete: %s\n", zerror(zoo_delete(zh, "/c/two", 0)));
    printf("container: %s\n", zerror(zoo_create(zh, "/c/box", "", 0, &ZOO_OPEN_ACL_UNSAFE, ZOO_CONTAINER, NULL, 0)));
}

/* ---- watches ---------------------------------------------------------------------------------------------------- */

static void watches(zhandle_t *zh) {
    char data[64];
    int length = sizeof data;
    struct Stat stat;
    struct String_vector names;
    int seen = events;
    printf("-- watches\n");
    zoo_create(zh, "/w", "0", 1, &ZOO_OPEN_ACL_UNSAFE, 0, NULL, 0);
    zoo_wget(zh, "/w", node_watcher, "get", data, &length, &stat);
    zoo_set(zh, "/w", "1", 1, -1);
    show_event(++seen);
    zoo_wexists(zh, "/w/new", node_watcher, "exists", &stat);
    zoo_create(zh, "/w/new", "", 0, &ZOO_OPEN_ACL_UNSAFE, 0, NULL, 0);
    show_event(++seen);
    if (!zoo_wget_children(zh, "/w", node_watcher, "children", &names)) deallocate_String_vector(&names);
    zoo_delete(zh, "/w/new", -1);
    show_event(++seen);
    zoo_wexists(zh, "/w", node_watcher, "exists", &stat);
    zoo_delete(zh, "/w", -1);
    show_event(++seen);
    zoo_wexists(zh, "/w", node_watcher, "removed", &stat);
    printf("remove: %s\n", zerror(zoo_remove_watches(zh, "/w", ZWATCHTYPE_DATA, node_watcher, "removed", 0)));
    printf("remove again: %s\n", zerror(zoo_remove_watches(zh, "/w", ZWATCHTYPE_DATA, node_watcher, "removed", 0)));
}

/* ---- multi ------------------------------------------------------------------------------------------------------ */

static void multis(zhandle_t *zh) {
    zoo_op_t ops[4];
    zoo_op_result_t results[4];
    char name[64];
    struct Stat stat;
    printf("-- multi\n");
    zoo_create_op_init(&ops[0], "/m", "1", 1, &ZOO_OPEN_ACL_UNSAFE, 0, name, sizeof name);
    zoo_set_op_init(&ops[1], "/m", "22", 2, 0, &stat);
    zoo_check_op_init(&ops[2], "/m", 1);
    zoo_create_op_init(&ops[3], "/m/x-", "", 0, &ZOO_OPEN_ACL_UNSAFE, ZOO_SEQUENCE, name, sizeof name);
    int rc = zoo_multi(zh, 4, ops, results);
    printf("good: %s, %s, set to version %d\n", zerror(rc), name, stat.version);
    show_data(zh, "/m");
    zoo_delete_op_init(&ops[0], "/m/x-0000000000", -1);
    zoo_check_op_init(&ops[1], "/m", 99);
    zoo_delete_op_init(&ops[2], "/m", -1);
    rc = zoo_multi(zh, 3, ops, results);
    printf("bad: %s:", zerror(rc));
    for (int i = 0; i < 3; i++) printf(" %s;", zerror(results[i].err));
    printf("\n");
    show_children(zh, "/m");
}

/* ---- rights ----------------------------------------------------------------------------------------------------- */

static int auth_rc;

static void auth_done(int rc, const void *data) {
    (void)data;
    auth_rc = rc;
    count(&completions);
}

static void add_auth(zhandle_t *zh, const char *cert) {
    int before = completions;
    zoo_add_auth(zh, "digest", cert, (int)strlen(cert), auth_done, NULL);
    await("authentication", &completions, before + 1);
    printf("auth %s: %s\n", cert, zerror(auth_rc));
}

static void rights(const char *host, zhandle_t *zh) {
    printf("-- rights\n");
    struct ACL mine[] = {{ZOO_PERM_ALL, {"auth", ""}}};
    struct ACL_vector creator = {1, mine};
    printf("creator acl without auth: %s\n", zerror(zoo_create(zh, "/a", "", 0, &creator, 0, NULL, 0)));
    add_auth(zh, "alice:secret");
    printf("creator acl: %s\n", zerror(zoo_create(zh, "/a", "mine", 4, &creator, 0, NULL, 0)));
    struct ACL_vector acl;
    struct Stat stat;
    int rc = zoo_get_acl(zh, "/a", &acl, &stat);
    printf("acl: %s %d %d %s %s\n", zerror(rc), acl.count, acl.data[0].perms, acl.data[0].id.scheme, acl.data[0].id.id);
    deallocate_ACL_vector(&acl);
    zhandle_t *other = open_session(host, NULL);
    show_data(other, "/a");
    printf("other sets: %s\n", zerror(zoo_set(other, "/a", "x", 1, -1)));
    add_auth(other, "alice:secret");
    show_data(other, "/a");
    printf("set acl: %s\n", zerror(zoo_set_acl(zh, "/a", -1, &ZOO_READ_ACL_UNSAFE)));
    printf("set after that: %s\n", zerror(zoo_set(zh, "/a", "x", 1, -1)));
    printf("close: %s\n", zerror(zookeeper_close(other)));
}

/* ---- asynchronous calls ----------------------------------------------------------------------------------------- */

#define MANY 1000
static int order_kept = 1, next_expected, failures;

static void created(int rc, const char *value, const void *data) {
    (void)value;
    int number = (int)(long)data;
    if (rc) failures++;
    if (number != next_expected++) order_kept = 0;
    count(&completions);
}

static void got(int rc, const char *value, int length, const struct Stat *stat, const void *data) {
    (void)stat;
    int number = (int)(long)data;
    char wanted[16];
    int n = snprintf(wanted, sizeof wanted, "%d", number);
    if (rc || n != length || memcmp(value, wanted, (size_t)n)) failures++;
    if (number != next_expected++) order_kept = 0;
    count(&completions);
}

static void asynchronous(zhandle_t *zh) {
    char path[64], value[16];
    printf("-- asynchronous\n");
    zoo_create(zh, "/async", "", 0, &ZOO_OPEN_ACL_UNSAFE, 0, NULL, 0);
    int before = completions;
    next_expected = 0;
    for (long i = 0; i < MANY; i++) {
        snprintf(path, sizeof path, "/async/%04ld", i);
        int n = snprintf(value, sizeof value, "%ld", i);
        zoo_acreate(zh, path, value, n, &ZOO_OPEN_ACL_UNSAFE, 0, created, (void *)i);
    }
    await("the creates", &completions, before + MANY);
    printf("%d creates: %d failed, in order: %s\n", MANY, failures, order_kept ? "yes" : "no");
    next_expected = 0;
    for (long i = 0; i < MANY; i++) {
        snprintf(path, sizeof path, "/async/%04ld", i);
        zoo_aget(zh, path, 0, got, (void *)i);
    }
    await("the gets", &completions, before + 2 * MANY);
    printf("%d gets: %d failed, in order: %s\n", MANY, failures, order_kept ? "yes" : "no");
    struct Stat stat;
    show_stat("parent", zoo_exists(zh, "/async", 0, &stat), &stat);
}

/* ---- sessions --------------------------------------------------------------------------------------------------- */

static void sessions(const char *host, zhandle_t *zh) {
    struct Stat stat;
    printf("-- sessions\n");
    zhandle_t *owner = open_session(host, NULL);
    zoo_create(owner, "/e", "", 0, &ZOO_OPEN_ACL_UNSAFE, ZOO_EPHEMERAL, NULL, 0);
    show_stat("ephemeral", zoo_exists(zh, "/e", 0, &stat), &stat);
    printf("child of an ephemeral: %s\n", zerror(zoo_create(owner, "/e/x", "", 0, &ZOO_OPEN_ACL_UNSAFE, 0, NULL, 0)));

    /* The connection breaks under the library, which reconnects, renews the session and sets its watches again. */
    int seen = events, before = connects;
    zoo_wexists(owner, "/late", node_watcher, "after the break", &stat);
    clientid_t id = *zoo_client_id(owner);
    /* The library does not tell its sockets: all of this process are cut, and each handle has to come back. */
    for (int s = 3; s < 64; s++) shutdown(s, SHUT_RDWR);
    await("both handles to come back", &connects, before + 2);
    printf("same session: %s\n", zoo_client_id(owner)->client_id == id.client_id ? "yes" : "no");
    show_stat("ephemeral after the break", zoo_exists(zh, "/e", 0, &stat), &stat);
    zoo_create(zh, "/late", "", 0, &ZOO_OPEN_ACL_UNSAFE, 0, NULL, 0);
    show_event(seen + 1);

    /* A second handle takes the session over by its id and password; closing it ends the session. */
    zhandle_t *heir = open_session(host, &id);
    printf("taken over: %s\n", zoo_client_id(heir)->client_id == id.client_id ? "yes" : "no");
    show_stat("ephemeral after the move", zoo_exists(heir, "/e", 0, &stat), &stat);
    printf("close: %s\n", zerror(zookeeper_close(heir)));
    show_stat("ephemeral after the close", zoo_exists(zh, "/e", 0, &stat), &stat);
    zookeeper_close(owner);
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: client HOST:PORT\n");
        return 2;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    zoo_set_debug_level((ZooLogLevel)0);
    zhandle_t *zh = open_session(argv[1], NULL);
    plain_nodes(zh);
    watches(zh);
    multis(zh);
    rights(argv[1], zh);
    asynchronous(zh);
    sessions(argv[1], zh);
    printf("close: %s\n", zerror(zookeeper_close(zh)));
    return 0;
}
