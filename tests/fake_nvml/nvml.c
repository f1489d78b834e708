/* A stand-in for libnvidia-ml.so.1: enough of NVIDIA's management library for pynvml's real calls to run without a GPU.
 *
 * Environment:
 *   FAKE_NVML_GPUS   how many GPUs there are (default 1). GPU i draws (i + 1) * 100 W, all the time.
 *   FAKE_NVML_FAIL   `function=code[:first[:last]]`, separated by commas: that function returns NVML's error `code`
 *                    from its `first` call on (default 1) to its `last` (default for ever).
 *   FAKE_NVML_ANSWER `function=number`, separated by commas: what that function tells of every GPU.
 * Compiled with -DWITHOUT_ENERGY it lacks the energy counter, as old drivers do: the symbol is not there.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, INSUFFICIENT_SIZE = 7 };
enum { MOST_GPUS = 16 };

typedef struct { unsigned index, energy_calls; } Gpu;
typedef struct { unsigned gpu, memory; } Utilization;
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned pid; unsigned long long memory; unsigned gpu_instance, compute_instance; } Process;

static Gpu gpus[MOST_GPUS];

static unsigned count(void) {
    const char *text = getenv("FAKE_NVML_GPUS");
    return text ? (unsigned)atoi(text) : 1;
}

/* The error that FAKE_NVML_FAIL wants of this call of `function`, else SUCCESS. */
static int outcome(const char *function, unsigned *calls) {
    const char *entry = getenv("FAKE_NVML_FAIL");
    size_t length = strlen(function);
    ++*calls;
    for (; entry; entry = strchr(entry, ',') ? strchr(entry, ',') + 1 : NULL) {
        int code = SUCCESS;
        unsigned first = 1, last = ~0u;
        if (strncmp(entry, function, length) == 0 && entry[length] == '=' &&
            sscanf(entry + length + 1, "%d:%u:%u", &code, &first, &last) >= 1 && *calls >= first && *calls <= last)
            return code;
    }
    return SUCCESS;
}

/* The number that FAKE_NVML_ANSWER gives `function`, else `otherwise`. */
static long long answer(const char *function, long long otherwise) {
    const char *entry = getenv("FAKE_NVML_ANSWER");
    size_t length = strlen(function);
    for (; entry; entry = strchr(entry, ',') ? strchr(entry, ',') + 1 : NULL)
        if (strncmp(entry, function, length) == 0 && entry[length] == '=') return atoll(entry + length + 1);
    return otherwise;
}

#define CHECK                                              \
    do {                                                   \
        static unsigned calls;                             \
        int code = outcome(__func__, &calls);              \
        if (code != SUCCESS) return code;                  \
    } while (0)

static unsigned milliwatts(const Gpu *gpu) { return (gpu->index + 1) * 100000u; }

int nvmlInitWithFlags(unsigned flags) { CHECK; (void)flags; return SUCCESS; }
int nvmlInit(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { return SUCCESS; }

const char *nvmlErrorString(int code) {
    static char text[32];
    snprintf(text, sizeof text, "fake error %d", code);
    return text;
}

int nvmlSystemGetDriverVersion(char *text, unsigned size) {
    CHECK;
    snprintf(text, size, "999.42");
    return SUCCESS;
}

int nvmlDeviceGetCount_v2(unsigned *found) { CHECK; *found = count(); return SUCCESS; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, Gpu **gpu) {
    CHECK;
    if (index >= count() || index >= MOST_GPUS) return INVALID_ARGUMENT;
    gpus[index].index = index;
    *gpu = &gpus[index];
    return SUCCESS;
}

int nvmlDeviceGetName(Gpu *gpu, char *text, unsigned size) {
    CHECK;
    snprintf(text, size, "Fake GPU %u", gpu->index);
    return SUCCESS;
}

int nvmlDeviceGetUUID(Gpu *gpu, char *text, unsigned size) {
    CHECK;
    snprintf(text, size, "GPU-%x%x000000-aaaa-bbbb-cccc-dddddddddddd", gpu->index, gpu->index);
    return SUCCESS;
}

/* Every other GPU is of the generation before bfloat16. */
int nvmlDeviceGetCudaComputeCapability(Gpu *gpu, int *major, int *minor) {
    CHECK;
    *major = gpu->index % 2 ? 7 : 9;
    *minor = 0;
    return SUCCESS;
}

int nvmlDeviceGetTopologyCommonAncestor(Gpu *one, Gpu *other, int *level) {
    CHECK;
    *level = one->index / 2 == other->index / 2 ? 10 : 40;
    return SUCCESS;
}

#ifndef WITHOUT_ENERGY
/* From one call to the next ten milliseconds go by, so that a test can tell what to expect to the digit. */
int nvmlDeviceGetTotalEnergyConsumption(Gpu *gpu, unsigned long long *millijoules) {
    CHECK;
    *millijoules = 5000000000ull + milliwatts(gpu) / 100ull * gpu->energy_calls++;
    return SUCCESS;
}
#endif

int nvmlDeviceGetPowerUsage(Gpu *gpu, unsigned *power) { CHECK; *power = milliwatts(gpu); return SUCCESS; }
int nvmlDeviceGetEnforcedPowerLimit(Gpu *gpu, unsigned *limit) { CHECK; (void)gpu; *limit = 700000; return SUCCESS; }

/* NVML's clock types: 1 is SM, 2 is memory. */
int nvmlDeviceGetClockInfo(Gpu *gpu, unsigned type, unsigned *mhz) {
    CHECK;
    *mhz = type == 1 ? 1500 - 100 * gpu->index : 2600;
    return SUCCESS;
}

int nvmlDeviceGetMaxClockInfo(Gpu *gpu, unsigned type, unsigned *mhz) {
    CHECK;
    (void)gpu;
    *mhz = type == 1 ? 2000 : 2600;
    return SUCCESS;
}

int nvmlDeviceGetTemperature(Gpu *gpu, unsigned sensor, unsigned *celsius) {
    CHECK;
    (void)sensor;
    *celsius = 60 + gpu->index;
    return SUCCESS;
}

/* Power cap (0x4) and thermal slowdown by the driver (0x20). */
int nvmlDeviceGetCurrentClocksThrottleReasons(Gpu *gpu, unsigned long long *mask) {
    CHECK;
    (void)gpu;
    *mask = (unsigned long long)answer(__func__, 0x24);
    return SUCCESS;
}

int nvmlDeviceGetUtilizationRates(Gpu *gpu, Utilization *rates) {
    CHECK;
    rates->gpu = 97 - gpu->index;
    rates->memory = 50;
    return SUCCESS;
}

/* Two processes on each GPU: the caller is told how much room it needs first, as by the real library. */
int nvmlDeviceGetComputeRunningProcesses_v3(Gpu *gpu, unsigned *room, Process *processes) {
    unsigned given = *room;
    CHECK;
    (void)gpu;
    *room = 2;
    if (given < 2) return INSUFFICIENT_SIZE;
    for (unsigned i = 0; i < 2; i++) processes[i] = (Process){.pid = 1000 + i, .memory = 1 << 20};
    return SUCCESS;
}

/* 80 GB, of which FAKE_NVML_ANSWER says how many bytes are free. */
int nvmlDeviceGetMemoryInfo(Gpu *gpu, Memory *memory) {
    CHECK;
    (void)gpu;
    memory->total = 80000000000ull;
    memory->free = (unsigned long long)answer(__func__, 79000000000ll);
    memory->used = memory->total - memory->free;
    return SUCCESS;
}

int nvmlSystemGetCudaDriverVersion(int *version) { CHECK; *version = (int)answer(__func__, 13000); return SUCCESS; }

#define TELLS(function, otherwise)                          \
    int function(Gpu *gpu, unsigned *value) {               \
        CHECK;                                              \
        (void)gpu;                                          \
        *value = (unsigned)answer(__func__, otherwise);     \
        return SUCCESS;                                     \
    }

TELLS(nvmlDeviceGetComputeMode, 0)
TELLS(nvmlDeviceGetPersistenceMode, 1)
TELLS(nvmlDeviceGetCurrPcieLinkWidth, 16)
TELLS(nvmlDeviceGetMaxPcieLinkWidth, 16)

int nvmlDeviceGetTotalEccErrors(Gpu *gpu, unsigned type, unsigned counter, unsigned long long *errors) {
    CHECK;
    (void)gpu, (void)type, (void)counter;
    *errors = (unsigned long long)answer(__func__, 0);
    return SUCCESS;
}

int nvmlDeviceGetP2PStatus(Gpu *one, Gpu *other, unsigned capability, unsigned *status) {
    CHECK;
    (void)one, (void)other, (void)capability;
    *status = (unsigned)answer(__func__, 0);
    return SUCCESS;
}

int nvmlDeviceGetMigMode(Gpu *gpu, unsigned *now, unsigned *after_reboot) {
    CHECK;
    (void)gpu;
    *now = *after_reboot = (unsigned)answer(__func__, 0);
    return SUCCESS;
}

/* Four links, of which FAKE_NVML_ANSWER says how many are up. */
int nvmlDeviceGetNvLinkState(Gpu *gpu, unsigned link, unsigned *up) {
    CHECK;
    (void)gpu;
    if (link >= 4) return INVALID_ARGUMENT;
    *up = link < answer(__func__, 4);
    return SUCCESS;
}
