/* A stand-in for libnvidia-ml.so.1, driven from outside through one shared file. See ../nvml_standin.py.
 *
 * The file `nvml_standin.state` beside this library is mapped by every process that loads the library and by the test
 * that drives it; `struct state` is its layout and is mirrored in nvml_standin.py. Struct layouts and symbol names are
 * those of NVML as nvidia-ml-py uses them. A symbol is taken away at build time with -D<symbol>=<another name>.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7,
       DRIVER_NOT_LOADED = 9, UNKNOWN = 999 };
enum { MAX_BOARDS = 16, MAX_PROCESSES = 512, MAX_INSTANCES = 8, MAX_LISTED = 64 };
/* What a call reads; index of `status` (the error the call answers with) and of `calls` (how often it was called). */
enum { FIELDS, ENERGY, POWER_AVERAGE, POWER_INSTANT, POWER_USAGE, POWER_LIMIT, UTILISATION, MEMORY, CLOCKS, TEMPERATURE,
       REASONS, PROCESSES, IDENTITY, CLIENTS, BUSY, MIG_MODE, MIG_COUNT, MIG_HANDLES, MIG_IDS, MIG_ATTRIBUTES,
       MIG_NAMES, MIG_PROCESSES, CALL_KINDS };

/* A MIG device: a compute instance in a GPU instance. Its processes are in its own list and, by id, in the board's. */
struct instance {
    char uuid[96], name[96];
    uint32_t present, gpu_instance, compute_instance, gpu_slices, compute_slices, process_count;
    uint32_t pids[MAX_LISTED];
};

struct board {
    uint64_t version;          /* odd while the driver of the test writes (a sequence lock) */
    char uuid[96];
    char name[96];
    uint64_t base_mj;          /* energy at since_us */
    uint64_t since_us;
    uint64_t slope_mw;         /* energy = base_mj + slope_mw * elapsed; 0 = a fixed value */
    uint64_t memory_total_bytes, memory_used_bytes;
    uint64_t clock_event_reasons;
    uint64_t glitch_mj;        /* value of the next glitch_reads energy reads */
    uint64_t glitch_reads;
    uint64_t served_energy_mj, first_served_energy_mj, energy_reads; /* written by the library */
    uint32_t power_average_mw, power_instant_mw, power_usage_mw, power_limit_mw;
    uint32_t utilisation_percent, sm_clock_mhz, memory_clock_mhz, temperature_celsius;
    uint32_t architecture, lost; /* lost: error of every call on the board */
    uint32_t mig_enabled, process_count;
    uint32_t pids[MAX_PROCESSES], gpu_instances[MAX_PROCESSES], compute_instances[MAX_PROCESSES];
    uint32_t client_count, busy_count;
    uint32_t client_pids[MAX_LISTED], busy_pids[MAX_LISTED], busy_percent[MAX_LISTED];
    struct instance instances[MAX_INSTANCES];
    uint32_t status[CALL_KINDS];
    uint32_t calls[CALL_KINDS];
};

struct state {
    uint32_t size, board_count;
    uint32_t manual_clock, init_status;
    uint64_t clock_us, inits, shutdowns;
    char driver_version[80];
    struct board boards[MAX_BOARDS];
};

struct value { uint32_t field, scope; int64_t timestamp, latency; uint32_t type, status; union { uint32_t u; uint64_t ull; double d; } v; };
struct process { uint32_t pid; uint64_t memory; uint32_t gpu_instance, compute_instance; };

static struct state *state;
static int initialised;
static char handles[MAX_BOARDS], slices[MAX_BOARDS * MAX_INSTANCES];

static int attach(void) {
    if (state) return SUCCESS;
    Dl_info info;
    char path[4096];
    if (!dladdr((void *)handles, &info) || !info.dli_fname) return UNKNOWN;
    const char *slash = strrchr(info.dli_fname, '/');
    snprintf(path, sizeof path, "%.*snvml_standin.state", slash ? (int)(slash - info.dli_fname + 1) : 0, info.dli_fname);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) return DRIVER_NOT_LOADED;
    void *mapped = mmap(NULL, sizeof *state, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (mapped == MAP_FAILED || ((struct state *)mapped)->size != sizeof *state) return UNKNOWN;
    state = mapped;
    return SUCCESS;
}

static uint64_t now_us(void) {
    if (state->manual_clock) return state->clock_us;
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

/* The board behind a handle, once its call of this kind may succeed. */
static int board_of(void *handle, int kind, struct board **board) {
    if (!initialised) return UNINITIALIZED;
    long index = (char *)handle - handles;
    if (index < 0 || index >= (long)state->board_count) return INVALID_ARGUMENT;
    *board = &state->boards[index];
    __atomic_add_fetch(&(*board)->calls[kind], 1, __ATOMIC_RELAXED);
    return (*board)->lost ? (int)(*board)->lost : (int)(*board)->status[kind];
}
/* The MIG device behind a handle, and its board, once a call of this kind may succeed. */
static int instance_of(void *handle, int kind, struct board **board, struct instance **instance) {
    if (!initialised) return UNINITIALIZED;
    long index = (char *)handle - slices;
    if (index < 0 || index >= (long)state->board_count * MAX_INSTANCES) return INVALID_ARGUMENT;
    *board = &state->boards[index / MAX_INSTANCES];
    *instance = &(*board)->instances[index % MAX_INSTANCES];
    __atomic_add_fetch(&(*board)->calls[kind], 1, __ATOMIC_RELAXED);
    return (*board)->lost ? (int)(*board)->lost : (int)(*board)->status[kind];
}
static int is_instance(void *handle) { return (char *)handle >= slices && (char *)handle < slices + sizeof slices; }
#define INSTANCE(kind) struct board *b; struct instance *i; int status = instance_of(handle, kind, &b, &i); (void)b; if (status) return status
#define BOARD(kind) struct board *b; int status = board_of(handle, kind, &b); if (status) return status

static uint64_t energy_mj(struct board *b) {
    uint64_t before, energy;
    if (b->glitch_reads) {
        b->glitch_reads--;
        return b->glitch_mj;
    }
    do {
        while ((before = __atomic_load_n(&b->version, __ATOMIC_ACQUIRE)) & 1) usleep(1);
        uint64_t now = now_us();
        energy = b->base_mj + (now > b->since_us ? (uint64_t)((__uint128_t)b->slope_mw * (now - b->since_us) / 1000000) : 0);
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
    } while (before != __atomic_load_n(&b->version, __ATOMIC_RELAXED));
    if (!b->energy_reads++) b->first_served_energy_mj = energy;
    b->served_energy_mj = energy;
    return energy;
}

static int text(char *to, unsigned length, const char *from) {
    if (strlen(from) >= length) return INSUFFICIENT_SIZE;
    strcpy(to, from);
    return SUCCESS;
}

/* ---- library and system ---- */
int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    int status = attach();
    if (status) return status;
    state->inits++;
    if (state->init_status) return (int)state->init_status;
    initialised++;
    return SUCCESS;
}
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) {
    if (!initialised) return UNINITIALIZED;
    state->shutdowns++;
    initialised--;
    return SUCCESS;
}
const char *nvmlErrorString(int code) {
    switch (code) {
    case SUCCESS: return "The operation was successful";
    case NOT_SUPPORTED: return "Feature is not supported on this board";
    case 15: return "GPU is lost";
    default: return "Unknown Error";
    }
}
#define SYSTEM if (!initialised) return UNINITIALIZED
int nvmlSystemGetDriverVersion(char *version, unsigned length) { SYSTEM; return text(version, length, state->driver_version); }
int nvmlSystemGetNVMLVersion(char *version, unsigned length) { SYSTEM; return text(version, length, "13.stand-in"); }
int nvmlSystemGetCudaDriverVersion(int *version) { SYSTEM; *version = 13000; return SUCCESS; }
int nvmlSystemGetCudaDriverVersion_v2(int *version) { SYSTEM; *version = 13000; return SUCCESS; }
int nvmlSystemGetProcessName(unsigned pid, char *name, unsigned length) { SYSTEM; (void)pid; return text(name, length, "engine"); }

/* ---- enumeration and identity ---- */
int nvmlDeviceGetCount_v2(unsigned *count) { SYSTEM; *count = state->board_count; return SUCCESS; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
    SYSTEM;
    if (index >= state->board_count) return INVALID_ARGUMENT;
    *handle = &handles[index];
    return (int)state->boards[index].lost;
}
int nvmlDeviceGetHandleByUUID(const char *uuid, void **handle) {
    SYSTEM;
    for (unsigned i = 0; i < state->board_count; i++)
        if (!strcmp(uuid, state->boards[i].uuid)) return nvmlDeviceGetHandleByIndex_v2(i, handle);
    for (unsigned n = 0; n < state->board_count * MAX_INSTANCES; n++) {
        struct instance *i = &state->boards[n / MAX_INSTANCES].instances[n % MAX_INSTANCES];
        if (!i->present || strcmp(uuid, i->uuid)) continue;
        *handle = &slices[n];
        return SUCCESS;
    }
    unsigned board; /* a slice that is not driven from outside is called MIG-<board in 8 hex digits>-<anything> */
    if (sscanf(uuid, "MIG-%8x-", &board) == 1 && board < state->board_count && state->boards[board].mig_enabled) {
        *handle = &slices[board * MAX_INSTANCES];
        return SUCCESS;
    }
    return NOT_FOUND;
}
int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(void *slice, void **board) {
    SYSTEM;
    long index = (char *)slice - slices;
    if (index < 0 || index >= (long)state->board_count * MAX_INSTANCES) return INVALID_ARGUMENT;
    return nvmlDeviceGetHandleByIndex_v2((unsigned)(index / MAX_INSTANCES), board);
}
int nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, void **handle) {
    SYSTEM;
    unsigned bus;
    if (sscanf(bus_id, "%*x:%x", &bus) != 1 || bus < 1 || bus > state->board_count) return NOT_FOUND;
    return nvmlDeviceGetHandleByIndex_v2(bus - 1, handle);
}
int nvmlDeviceGetIndex(void *handle, unsigned *index) { BOARD(IDENTITY); *index = (unsigned)(b - state->boards); return SUCCESS; }
int nvmlDeviceGetMinorNumber(void *handle, unsigned *minor) { return nvmlDeviceGetIndex(handle, minor); }
int nvmlDeviceGetName(void *handle, char *name, unsigned length) {
    if (is_instance(handle)) { INSTANCE(MIG_NAMES); return text(name, length, i->name); }
    BOARD(IDENTITY);
    return text(name, length, b->name);
}
int nvmlDeviceGetUUID(void *handle, char *uuid, unsigned length) {
    if (is_instance(handle)) { INSTANCE(MIG_HANDLES); return text(uuid, length, i->uuid); }
    BOARD(IDENTITY);
    return text(uuid, length, b->uuid);
}
int nvmlDeviceGetSerial(void *handle, char *serial, unsigned length) { BOARD(IDENTITY); return text(serial, length, "0000000000000"); }
int nvmlDeviceGetArchitecture(void *handle, unsigned *architecture) { BOARD(IDENTITY); *architecture = b->architecture; return SUCCESS; }
struct pci { char legacy[16]; unsigned domain, bus, device, device_id, subsystem_id; char bus_id[32]; };
int nvmlDeviceGetPciInfo_v3(void *handle, struct pci *pci) {
    BOARD(IDENTITY);
    memset(pci, 0, sizeof *pci);
    pci->bus = (unsigned)(b - state->boards) + 1;
    snprintf(pci->legacy, sizeof pci->legacy, "0000:%02X:00.0", pci->bus & 0xff);
    snprintf(pci->bus_id, sizeof pci->bus_id, "00000000:%02X:00.0", pci->bus & 0xff);
    return SUCCESS;
}

/* ---- power and energy ---- */
int nvmlDeviceGetTotalEnergyConsumption(void *handle, uint64_t *energy) { BOARD(ENERGY); *energy = energy_mj(b); return SUCCESS; }
int nvmlDeviceGetPowerUsage(void *handle, unsigned *power) { BOARD(POWER_USAGE); *power = b->power_usage_mw; return SUCCESS; }
int nvmlDeviceGetEnforcedPowerLimit(void *handle, unsigned *limit) { BOARD(POWER_LIMIT); *limit = b->power_limit_mw; return SUCCESS; }
int nvmlDeviceGetPowerManagementLimitConstraints(void *handle, unsigned *low, unsigned *high) {
    BOARD(POWER_LIMIT);
    *low = 100000;
    *high = b->power_limit_mw;
    return SUCCESS;
}
int nvmlDeviceGetSamples(void *handle, int type, uint64_t last, int *value_type, unsigned *count, void *samples) {
    BOARD(POWER_USAGE);
    (void)type, (void)last, (void)value_type, (void)samples;
    *count = 0;
    return NOT_FOUND;
}
int nvmlDeviceGetFieldValues(void *handle, int count, struct value *values) {
    BOARD(FIELDS);
    for (int i = 0; i < count; i++) {
        struct value *v = &values[i];
        int kind = v->field == 83 || v->field == 191 ? ENERGY : v->field == 185 ? POWER_AVERAGE : v->field == 186 ? POWER_INSTANT : -1;
        v->timestamp = (int64_t)now_us();
        v->latency = 1;
        v->v.ull = 0xdeadbeefdeadbeef; /* a driver leaves the unused half of the union as it was */
        v->type = kind == ENERGY ? 3 : 1;
        if (kind < 0 || v->scope) {
            v->status = kind < 0 ? INVALID_ARGUMENT : NOT_SUPPORTED;
            continue;
        }
        __atomic_add_fetch(&b->calls[kind], 1, __ATOMIC_RELAXED);
        v->status = b->status[kind];
        if (v->status) continue;
        if (kind == ENERGY) v->v.ull = energy_mj(b);
        else v->v.u = kind == POWER_AVERAGE ? b->power_average_mw : b->power_instant_mw;
    }
    return SUCCESS;
}

/* ---- state ---- */
struct utilisation { unsigned gpu, memory; };
int nvmlDeviceGetUtilizationRates(void *handle, struct utilisation *u) {
    BOARD(UTILISATION);
    if (b->mig_enabled) return NOT_SUPPORTED;
    u->gpu = b->utilisation_percent;
    u->memory = b->utilisation_percent / 2;
    return SUCCESS;
}
struct memory { uint64_t total, free, used; };
int nvmlDeviceGetMemoryInfo(void *handle, struct memory *m) {
    BOARD(MEMORY);
    m->total = b->memory_total_bytes;
    m->used = b->memory_used_bytes;
    m->free = m->total - m->used;
    return SUCCESS;
}
struct memory_v2 { unsigned version; uint64_t total, reserved, free, used; };
int nvmlDeviceGetMemoryInfo_v2(void *handle, struct memory_v2 *m) {
    BOARD(MEMORY);
    m->total = b->memory_total_bytes;
    m->used = b->memory_used_bytes;
    m->reserved = 0;
    m->free = m->total - m->used;
    return SUCCESS;
}
int nvmlDeviceGetClockInfo(void *handle, int type, unsigned *mhz) {
    BOARD(CLOCKS);
    *mhz = type == 2 ? b->memory_clock_mhz : b->sm_clock_mhz;
    return SUCCESS;
}
int nvmlDeviceGetMaxClockInfo(void *handle, int type, unsigned *mhz) { return nvmlDeviceGetClockInfo(handle, type, mhz); }
int nvmlDeviceGetTemperature(void *handle, int sensor, unsigned *celsius) {
    BOARD(TEMPERATURE);
    if (sensor) return INVALID_ARGUMENT;
    *celsius = b->temperature_celsius;
    return SUCCESS;
}
struct temperature { unsigned version; int sensor, celsius; };
int nvmlDeviceGetTemperatureV(void *handle, struct temperature *t) { return nvmlDeviceGetTemperature(handle, t->sensor, (unsigned *)&t->celsius); }
int nvmlDeviceGetPerformanceState(void *handle, int *state_) { BOARD(CLOCKS); *state_ = 0; return SUCCESS; }
int nvmlDeviceGetPersistenceMode(void *handle, int *mode) { BOARD(IDENTITY); *mode = 1; return SUCCESS; }
int nvmlDeviceGetCurrentClocksEventReasons(void *handle, uint64_t *reasons) { BOARD(REASONS); *reasons = b->clock_event_reasons; return SUCCESS; }
int nvmlDeviceGetCurrentClocksThrottleReasons(void *handle, uint64_t *reasons) { BOARD(REASONS); *reasons = b->clock_event_reasons; return SUCCESS; }
int nvmlDeviceGetSupportedClocksEventReasons(void *handle, uint64_t *reasons) { BOARD(REASONS); *reasons = 0x1ff; return SUCCESS; }

/* ---- processes ---- */
static int processes(void *handle, unsigned *count, struct process *list) {
    unsigned room = *count;
    if (is_instance(handle)) {
        INSTANCE(MIG_PROCESSES);
        *count = i->process_count;
        if (room < i->process_count) return INSUFFICIENT_SIZE;
        for (unsigned n = 0; n < i->process_count; n++)
            list[n] = (struct process){i->pids[n], ~0ull, i->gpu_instance, i->compute_instance};
        return SUCCESS;
    }
    BOARD(PROCESSES);
    *count = b->process_count;
    if (room < b->process_count) return INSUFFICIENT_SIZE;
    for (unsigned n = 0; n < b->process_count; n++)
        list[n] = (struct process){b->pids[n], b->memory_used_bytes / b->process_count, b->gpu_instances[n], b->compute_instances[n]};
    return SUCCESS;
}
int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned *count, struct process *list) { return processes(handle, count, list); }
int nvmlDeviceGetComputeRunningProcesses_v2(void *handle, unsigned *count, struct process *list) { return processes(handle, count, list); }
int nvmlDeviceGetMPSComputeRunningProcesses_v3(void *handle, unsigned *count, struct process *list) {
    BOARD(CLIENTS);
    unsigned room = *count;
    *count = b->client_count;
    if (room < b->client_count) return INSUFFICIENT_SIZE;
    for (unsigned n = 0; n < b->client_count; n++)
        list[n] = (struct process){b->client_pids[n], ~0ull, 0xFFFFFFFF, 0xFFFFFFFF};
    return SUCCESS;
}
struct sample { uint32_t pid; uint64_t timestamp; uint32_t sm, memory, encoder, decoder; };
int nvmlDeviceGetProcessUtilization(void *handle, struct sample *samples, unsigned *count, uint64_t last) {
    BOARD(BUSY);
    unsigned room = *count;
    if (b->mig_enabled) return NOT_SUPPORTED;
    *count = b->busy_count;
    if (!b->busy_count || last >= now_us()) return NOT_FOUND; /* processes at 0 % are left out */
    if (room < b->busy_count) return INSUFFICIENT_SIZE;
    for (unsigned n = 0; n < b->busy_count; n++)
        samples[n] = (struct sample){b->busy_pids[n], now_us(), b->busy_percent[n], 0, 0, 0};
    return SUCCESS;
}

/* ---- MIG: instances that the test puts in; energy is the board's alone, and a MIG handle is refused it ---- */
int nvmlDeviceGetMigMode(void *handle, unsigned *current, unsigned *pending) {
    BOARD(MIG_MODE);
    *current = *pending = b->mig_enabled;
    return SUCCESS;
}
int nvmlDeviceIsMigDeviceHandle(void *handle, unsigned *is_mig) { SYSTEM; *is_mig = (unsigned)is_instance(handle); return SUCCESS; }
int nvmlDeviceGetMaxMigDeviceCount(void *handle, unsigned *count) { BOARD(MIG_COUNT); *count = b->mig_enabled ? 7 : 0; return SUCCESS; }
int nvmlDeviceGetMigDeviceHandleByIndex(void *handle, unsigned index, void **mig) {
    BOARD(MIG_HANDLES);
    if (index >= MAX_INSTANCES || !b->mig_enabled || !b->instances[index].present) return NOT_FOUND;
    *mig = &slices[(b - state->boards) * MAX_INSTANCES + index];
    return SUCCESS;
}
int nvmlDeviceGetGpuInstanceId(void *handle, unsigned *id) { INSTANCE(MIG_IDS); *id = i->gpu_instance; return SUCCESS; }
int nvmlDeviceGetComputeInstanceId(void *handle, unsigned *id) { INSTANCE(MIG_IDS); *id = i->compute_instance; return SUCCESS; }
struct attributes { unsigned multiprocessors, copy, decoders, encoders, jpeg, ofa, gpu_slices, compute_slices; uint64_t memory_mb; };
int nvmlDeviceGetAttributes_v2(void *handle, struct attributes *a) {
    INSTANCE(MIG_ATTRIBUTES);
    memset(a, 0, sizeof *a);
    a->gpu_slices = i->gpu_slices;
    a->compute_slices = i->compute_slices;
    return SUCCESS;
}
struct gpm_support { unsigned version, supported; };
int nvmlGpmQueryDeviceSupport(void *handle, struct gpm_support *support) { BOARD(IDENTITY); support->supported = 0; return SUCCESS; }
int nvmlGpmSampleAlloc(void **sample) { (void)sample; return NOT_SUPPORTED; }
int nvmlGpmSampleFree(void *sample) { (void)sample; return NOT_SUPPORTED; }
int nvmlGpmSampleGet(void *handle, void *sample) { (void)handle, (void)sample; return NOT_SUPPORTED; }
int nvmlGpmMetricsGet(void *metrics) { (void)metrics; return NOT_SUPPORTED; }
