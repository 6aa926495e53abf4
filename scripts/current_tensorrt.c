/* Stands for libnvinfer.so.11, libnvonnxparser.so.11 and libnvinfer_plugin.so.11, which the Python API of TensorRT 11
   loads, and forwards its calls to the builder and the parser of TensorRT-RTX. Both have the same interface; only their
   names and the version that they ask of a caller differ. `current_tensorrt.py` compiles it, with the two paths. */

#include <dlfcn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

static void *find(const char *library, const char *symbol) {
    void *handle = dlopen(library, RTLD_NOW | RTLD_GLOBAL);
    void *found = handle ? dlsym(handle, symbol) : NULL;
    if (!found) {
        fprintf(stderr, "%s\n", dlerror());
        abort();
    }
    return found;
}

/* The parser calls the builder's library, so that one is loaded first. */
static void *find_in_parser(const char *symbol) {
    find(BUILDER, "getInferLibVersion");
    return find(PARSER, symbol);
}

int getInferLibVersion(void) { return ((int (*)(void))find(BUILDER, "getInferLibVersion"))(); }

int getNvOnnxParserVersion(void) { return ((int (*)(void))find_in_parser("getNvOnnxParserVersion"))(); }

/* Each of these takes the version for which its caller was compiled, and refuses another than its own. */
void *createInferBuilder_INTERNAL(void *logger, int version) {
    (void)version;
    return ((void *(*)(void *, int))find(BUILDER, "createInferBuilder_INTERNAL"))(logger, getInferLibVersion());
}

void *createInferRuntime_INTERNAL(void *logger, int version) {
    (void)version;
    return ((void *(*)(void *, int))find(BUILDER, "createInferRuntime_INTERNAL"))(logger, getInferLibVersion());
}

void *createInferRefitter_INTERNAL(void *engine, void *logger, int version) {
    (void)version;
    return ((void *(*)(void *, void *, int))find(BUILDER, "createInferRefitter_INTERNAL"))(
        engine, logger, getInferLibVersion());
}

void *createNvOnnxParser_INTERNAL(void *network, void *logger, int version) {
    (void)version;
    return ((void *(*)(void *, void *, int))find_in_parser("createNvOnnxParser_INTERNAL"))(
        network, logger, getNvOnnxParserVersion());
}

void *createNvOnnxParserRefitter_INTERNAL(void *refitter, void *logger, int version) {
    (void)version;
    return ((void *(*)(void *, void *, int))find_in_parser("createNvOnnxParserRefitter_INTERNAL"))(
        refitter, logger, getNvOnnxParserVersion());
}

void *getPluginRegistry(void) { return ((void *(*)(void))find(BUILDER, "getPluginRegistry"))(); }

void *getBuilderPluginRegistry(int capability) {
    return ((void *(*)(int))find(BUILDER, "getBuilderPluginRegistry"))(capability);
}

/* The plugins of TensorRT are in no public package, and no graph of ours needs one. */
bool initLibNvInferPlugins(void *logger, const char *name_space) {
    (void)logger;
    (void)name_space;
    return true;
}
