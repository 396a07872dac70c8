/*
 * targets.c TARGET - what reads the bytes of others, as C readers, clients and hosts have it: a header page (header), a
 * board, the index of a dict (dict), requests as the host reads them (request), replies as a client does (reply),
 * the lines of $SHM_ARENAS (inherit), and the structs of Arrow data (arrow). What is taken is read to its last byte, and must lie inside.
 *
 *         targets TARGET SEED COUNT < INPUTS > MORE_INPUTS
 */
#include "fuzz.h"

#include "shm_arena.h"
#include "shm_arrow.h"
#include "shm_board.h"
#include "shm_dict.h"

#include "python_objects.h"

#include "shortcut.c"
#include "put.c"
#include "opened.c"
#include "assign.c"

#include <stdio.h>

#define MUST(condition)                   \
        do {                              \
                if (!(condition))         \
                        __builtin_trap(); \
        } while (0)
#define OBJECT_SIZE 12288 /* bytes of the objects in inputs */

uint64_t fuzz_taken;
static volatile uint8_t sink;
static void (*target)(const uint8_t *bytes, size_t size);

/* Read bytes, the first and the last among them; the sanitizer knows what lies in between. */
static void touch(const void *data, uint64_t size)
{
        for (uint64_t i = 0; i < size; i += 61)
                sink ^= ((const uint8_t *)data)[i];
        if (size > 0)
                sink ^= ((const uint8_t *)data)[size - 1];
}

/* A whole object, whose bytes behind the input are zero. */
static const struct shm_region_header *object_of(const uint8_t *bytes, size_t size)
{
        static _Alignas(4096) uint8_t object[OBJECT_SIZE];
        static size_t used;

        size = size < OBJECT_SIZE ? size : OBJECT_SIZE;
        memcpy(object, bytes, size);
        if (used > size)
                memset(object + size, 0, used - size);
        used = size;
        return (const struct shm_region_header *)(void *)object;
}

static void touch_in(const struct shm_region_header *header, const void *pointer, uint64_t size)
{
        uint64_t at = (uint64_t)(uintptr_t)pointer - (uint64_t)(uintptr_t)header->base;

        MUST(pointer != NULL || size == 0);
        MUST(pointer == NULL || (at >= SHM_HEADER_SIZE && at <= header->size && size <= header->size - at));
        if (pointer != NULL)
                touch((const uint8_t *)header + at, size);
}

static void read_header(const uint8_t *bytes, size_t size)
{
        const struct shm_region_header *header = object_of(bytes, size);

        if (shm_header_check(header, OBJECT_SIZE) == 0) {
                fuzz_taken++;
                touch_in(header, header->data, header->data_size);
                touch_in(header, header->root, header->root_size);
                touch_in(header, header->metadata, header->metadata_size);
                MUST(header->metadata_size <= SHM_METADATA_MAX && strlen(header->name) == header->name_size);
        }
}

static void read_board(const uint8_t *bytes, size_t size)
{
        const struct shm_region_header *header = object_of(bytes, size);
        const struct shm_board *board;
        uint64_t line;

        if (shm_header_check(header, OBJECT_SIZE) == 0 && (board = shm_board_of(header)) != NULL) {
                fuzz_taken++;
                (void)shm_board_lives(board);
                for (line = 0; line < 300; line++)
                        (void)shm_board_is_current(board, line, line);
                (void)shm_board_is_current(board, board->lines - 1, 1);
                (void)shm_board_is_current(board, UINT64_MAX, 1);
        }
}

/* The first 256 bytes are the data, the others the index. */
static void read_dict(const uint8_t *bytes, size_t size)
{
        static const char *const keys[] = {"", "a", "b", "key", "a longer key"};
        struct shm_dict dict;
        struct shm_dict_value value;
        uint64_t i;

        if (size < 256 || shm_dict_check(bytes + 256, size - 256, bytes, 256, &dict) != 0)
                return;
        fuzz_taken++;
        for (i = 0; i <= (dict.count < 50 ? dict.count : 50); i++)
                if (shm_dict_at(&dict, i, &value) == 0) {
                        touch(value.key, value.key_size);
                        touch(value.data, value.size);
                        touch(value.description, value.description_size);
                        MUST(i < dict.count && value.description_size <= SHM_METADATA_MAX);
                }
        for (i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
                if (shm_dict_find(&dict, keys[i], strlen(keys[i]), &value) == 0) {
                        MUST(value.key_size == strlen(keys[i]));
                        touch(value.data, value.size);
                }
}

/* Read all that a consumer may read of an array by its type: each buffer to its last byte. */
static void touch_array(const struct ArrowSchema *schema, const struct ArrowArray *array)
{
        const int64_t end = array->length + array->offset;
        struct shm_arrow_type type;

        MUST(shm_arrow_type_of(schema->format, &type) == 0);
        touch(schema->format, strlen(schema->format) + 1);
        touch(schema->name, schema->name == NULL ? 0 : strlen(schema->name) + 1);
        if (type.has_validity && array->buffers[0] != NULL)
                touch(array->buffers[0], (uint64_t)(end + 7) / 8);
        if (type.kind == SHM_ARROW_KIND_FIXED)
                touch(array->buffers[1], (uint64_t)(end * type.width));
        if (type.kind == SHM_ARROW_KIND_BITS)
                touch(array->buffers[1], (uint64_t)(end + 7) / 8);
        if (type.kind == SHM_ARROW_KIND_BINARY || type.kind == SHM_ARROW_KIND_LIST)
                touch(array->buffers[1], (uint64_t)((end + 1) * type.width));
        if (type.kind == SHM_ARROW_KIND_BINARY)
                touch(array->buffers[2], (uint64_t)shm_arrow_item(array, 1, end, type.width));
        if (type.kind == SHM_ARROW_KIND_VIEW)
                for (int64_t i = 2; i < array->n_buffers - 1; i++)
                        touch(array->buffers[i], (uint64_t)((const int64_t *)array->buffers[array->n_buffers - 1])[i - 2]);
        for (int64_t i = 0; i < array->n_children; i++)
                touch_array(schema->children[i], array->children[i]);
        if (array->dictionary != NULL)
                touch_array(schema->dictionary, array->dictionary);
}

/* A value made for address 0x100000, on memory of its own, so that the sanitizer knows where it ends. */
static void read_arrow(const uint8_t *bytes, size_t size)
{
        struct shm_arrow arrow;
        struct ArrowArrayStream stream;
        struct ArrowSchema schema;
        struct ArrowArray array;
        uint8_t *value = malloc(size + 1);

        memcpy(value, bytes, size);
        if (shm_arrow_open(value, size, &arrow) == 0 && shm_arrow_stream(&arrow, NULL, &stream) == 0) {
                if (stream.get_schema(&stream, &schema) == 0) {
                        while (stream.get_next(&stream, &array) == 0 && array.release != NULL) {
                                fuzz_taken++;
                                touch_array(&schema, &array);
                                array.release(&array);
                        }
                        schema.release(&schema);
                }
                stream.release(&stream);
        }
        free(value);
}

static void read_request(const uint8_t *bytes, size_t size)
{
        PyObject *data = PyBytes_FromStringAndSize((const char *)bytes, (Py_ssize_t)size), *answer;
        PyObject *const arguments[] = {data, Py_None};

        /* Memory of the very size, for the sanitizer. */
        free(data->bytes);
        data->bytes = (char *)malloc(size ? size : 1);
        MUST(data->bytes != NULL);
        memcpy(data->bytes, bytes, size);
        answer = shm_parse_request(NULL, arguments, 2);
        fuzz_taken += answer != NULL && answer != Py_None;
        MUST(answer != NULL && raised == NULL);
        Py_DECREF(answer);
        Py_DECREF(data);
        MUST(live_objects == 0);
}

static void check_opened(const uint8_t *bytes, size_t size, const struct shm_opened *opened, size_t descriptors)
{
        fuzz_taken++;
        MUST(opened->count >= 1 && opened->count + opened->spare_count <= descriptors);
        for (uint32_t i = 0; i < opened->count; i++) {
                const struct shm_granted *granted = &opened->grants[i];

                MUST((const uint8_t *)granted->name >= bytes && granted->name_size <= 255);
                MUST((const uint8_t *)granted->name + granted->name_size <= bytes + size);
                MUST(granted->numbers[SHM_LEASE] != 0);
                touch(granted->name, granted->name_size);
        }
}

static void read_reply(const uint8_t *bytes, size_t size)
{
        static struct shm_opened opened;
        uint32_t fields;

        for (fields = 7; fields <= 13; fields++) {
                if (shm_opened_read(bytes, size, fields, &opened))
                        check_opened(bytes, size, &opened, SHM_FRAME_NAMES_MAX);
                if (shm_published_read(bytes, size, fields, &opened))
                        check_opened(bytes, size, &opened, SHM_FRAME_NAMES_MAX);
        }
}

static void read_inherited(const uint8_t *bytes, size_t size)
{
        static char variable[11 + FUZZ_SIZE_MAX + 1] = "SHM_ARENAS=";
        char *text = (char *)malloc(size + 1);
        struct shm_inherited inherited;
        const char *name;

        MUST(text != NULL && putenv(variable) == 0);
        memcpy(text, bytes, size);
        text[size] = 0;
        memcpy(variable + 11, text, size + 1);
        name = shm_inherited_read(text, &inherited);
        MUST(name == NULL || (name > text && name <= text + strlen(text)));
        if (shm_inherited_find("camera", (int)(size & 1), &inherited) == 0) {
                fuzz_taken++;
                MUST((size & 1 ? inherited.socket : inherited.ledger) >= 0);
        }
        free(text);
}

static const struct {
        const char *name;
        void (*read)(const uint8_t *bytes, size_t size);
} targets[] = {{"header", read_header}, {"board", read_board}, {"dict", read_dict}, {"request", read_request},
               {"reply", read_reply}, {"inherit", read_inherited}, {"arrow", read_arrow}};

void fuzz_target(const uint8_t *bytes, size_t size)
{
        target(bytes, size);
}

void fuzz_repair(uint8_t *bytes, size_t size, uint64_t choice)
{
        if ((target == read_request || target == read_reply) && size >= 4 && choice != 0) {
                bytes[0] = (uint8_t)(size - 4);
                bytes[1] = (uint8_t)((size - 4) >> 8);
                bytes[2] = bytes[3] = 0;
        }
}

int main(int argc, char **argv)
{
        for (size_t i = 0; argc == 4 && i < sizeof(targets) / sizeof(targets[0]); i++)
                if (strcmp(argv[1], targets[i].name) == 0) {
                        target = targets[i].read;
                        return fuzz_main(strtoull(argv[2], NULL, 10), strtoull(argv[3], NULL, 10));
                }
        fprintf(stderr, "usage: targets TARGET SEED COUNT\n");
        return 2;
}
