/* SPDX-License-Identifier: Apache-2.0 */
/*
 * arrow.c - Arrow data for Python, as capsules of the PyCapsule interface: builtins that take a producer's structs, and
 * that give out copies of those in shared memory. A copy keeps the buffer that it was made from; its release is called by
 * any thread, with the GIL or without, or after the interpreter has ended: then nothing is given back.
 */
#ifndef SHM_ARROW_BUILTINS_H
#define SHM_ARROW_BUILTINS_H

#include "shm_arrow.h"

#define SHM_ARROW_PULLED "shmprotocol.pulled"

/* The schema and the batches of a stream that was read to its end. */
struct shm_arrow_pulled {
        struct ArrowSchema schema;
        struct ArrowArray *batches;
        size_t count, room;
};

static PyObject *shm_arrow_raise(int error)
{
        if (error == -ENOMEM)
                return PyErr_NoMemory();
        PyErr_SetString(PyExc_ValueError, error == -EPROTONOSUPPORT ?
                                                  "the Arrow data has another version: install a later shmhost" :
                                                  "the structs of the Arrow data are corrupt");
        return NULL;
}

static void shm_arrow_unhold(void *context)
{
        PyGILState_STATE state;

        if (!Py_IsInitialized())
                return;
        state = PyGILState_Ensure();
        PyBuffer_Release((Py_buffer *)context);
        free(context);
        PyGILState_Release(state);
}

/* Return a keeper that has a buffer, or NULL with an exception set. */
static struct shm_arrow_keeper *shm_arrow_hold(PyObject *object, Py_buffer **view_out)
{
        Py_buffer *view = (Py_buffer *)malloc(sizeof(*view));
        struct shm_arrow_keeper *keeper = view == NULL ? NULL : shm_arrow_keeper(shm_arrow_unhold, view);

        if (keeper == NULL) {
                PyErr_NoMemory();
        } else if (PyObject_GetBuffer(object, view, PyBUF_SIMPLE) == 0) {
                *view_out = view;
                return keeper;
        }
        free(view);
        free(keeper);
        return NULL;
}

static void shm_arrow_schema_capsule_end(PyObject *capsule)
{
        struct ArrowSchema *schema = (struct ArrowSchema *)PyCapsule_GetPointer(capsule, "arrow_schema");

        if (schema->release != NULL)
                schema->release(schema);
        free(schema);
}

static void shm_arrow_array_capsule_end(PyObject *capsule)
{
        struct ArrowArray *array = (struct ArrowArray *)PyCapsule_GetPointer(capsule, "arrow_array");

        if (array->release != NULL)
                array->release(array);
        free(array);
}

static void shm_arrow_stream_capsule_end(PyObject *capsule)
{
        struct ArrowArrayStream *stream =
                (struct ArrowArrayStream *)PyCapsule_GetPointer(capsule, "arrow_array_stream");

        if (stream->release != NULL)
                stream->release(stream);
        free(stream);
}

/* Return a capsule of allocated, zeroed memory, which it frees; NULL, with an exception set: no memory. */
static PyObject *shm_arrow_capsule(size_t size, const char *name, PyCapsule_Destructor end, void **memory_out)
{
        PyObject *capsule;

        *memory_out = calloc(1, size);
        if (*memory_out == NULL)
                return PyErr_NoMemory();
        capsule = PyCapsule_New(*memory_out, name, end);
        if (capsule == NULL)
                free(*memory_out);
        return capsule;
}

/* arrow_schema(buffer): a capsule "arrow_schema" with a copy of the schema of the value in a buffer. */
static PyObject *shm_arrow_schema_call(PyObject *self, PyObject *object)
{
        struct shm_arrow arrow;
        PyObject *capsule;
        Py_buffer view;
        void *schema;
        int error;

        (void)self;
        if (PyObject_GetBuffer(object, &view, PyBUF_SIMPLE) < 0)
                return NULL;
        capsule = shm_arrow_capsule(sizeof(struct ArrowSchema), "arrow_schema", shm_arrow_schema_capsule_end, &schema);
        if (capsule != NULL) {
                error = shm_arrow_open(view.buf, (uint64_t)view.len, &arrow);
                error = error ? error : shm_arrow_schema(&arrow, (struct ArrowSchema *)schema);
                if (error) {
                        Py_CLEAR(capsule);
                        shm_arrow_raise(error);
                }
        }
        PyBuffer_Release(&view);
        return capsule;
}

/* Copy one batch of a held buffer; takes the keeper. */
static int shm_arrow_copy_batch(const Py_buffer *view, uint64_t index, struct shm_arrow_keeper *keeper,
                                struct ArrowArray *array)
{
        struct ArrowSchema schema;
        struct shm_arrow arrow;
        int error = shm_arrow_open(view->buf, (uint64_t)view->len, &arrow);

        if (!error && index >= (uint64_t)arrow.batch_count)
                error = -EBADMSG;
        error = error ? error : shm_arrow_schema(&arrow, &schema);
        if (error) {
                shm_arrow_keeper_drop(keeper);
                return error;
        }
        arrow.budget = arrow.size;
        error = shm_arrow_array(&arrow, &schema, (int64_t)index, keeper, array);
        schema.release(&schema);
        return error;
}

/* arrow_array(buffer, index): a capsule "arrow_array" with a copy of a batch, which keeps the buffer. */
static PyObject *shm_arrow_array_call(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
        struct shm_arrow_keeper *keeper;
        PyObject *capsule;
        Py_buffer *view;
        uint64_t index;
        void *array;
        int error;

        (void)self;
        if (shm_arguments_check("arrow_array", count, 2) < 0 || shm_argument(arguments, 1, &index) < 0)
                return NULL;
        capsule = shm_arrow_capsule(sizeof(struct ArrowArray), "arrow_array", shm_arrow_array_capsule_end, &array);
        keeper = capsule == NULL ? NULL : shm_arrow_hold(arguments[0], &view);
        if (keeper == NULL) {
                Py_XDECREF(capsule);
                return NULL;
        }
        error = shm_arrow_copy_batch(view, index, keeper, (struct ArrowArray *)array);
        if (!error)
                return capsule;
        Py_DECREF(capsule);
        return shm_arrow_raise(error);
}

/* arrow_stream(buffer): a capsule "arrow_array_stream" of all batches, each of which keeps the buffer. */
static PyObject *shm_arrow_stream_call(PyObject *self, PyObject *object)
{
        struct shm_arrow_keeper *keeper;
        struct shm_arrow arrow;
        PyObject *capsule;
        Py_buffer *view;
        void *stream;
        int error;

        (void)self;
        capsule = shm_arrow_capsule(sizeof(struct ArrowArrayStream), "arrow_array_stream", shm_arrow_stream_capsule_end,
                                    &stream);
        keeper = capsule == NULL ? NULL : shm_arrow_hold(object, &view);
        if (keeper == NULL) {
                Py_XDECREF(capsule);
                return NULL;
        }
        error = shm_arrow_open(view->buf, (uint64_t)view->len, &arrow);
        if (error)
                shm_arrow_keeper_drop(keeper);
        else
                error = shm_arrow_stream(&arrow, keeper, (struct ArrowArrayStream *)stream);
        if (!error)
                return capsule;
        Py_DECREF(capsule);
        return shm_arrow_raise(error);
}

/* Copy all structs once, and drop the copies. Returns 0 or -errno. */
static int shm_arrow_check_all(struct shm_arrow *arrow, const struct ArrowSchema *schema)
{
        struct ArrowArray array;
        int64_t i, length = 0;
        int error = 0;

        for (i = 0; i < arrow->batch_count && !error; i++) {
                error = shm_arrow_array(arrow, schema, i, NULL, &array);
                if (!error && __builtin_add_overflow(length, array.length, &length))
                        error = -EBADMSG;
                if (!error)
                        array.release(&array);
        }
        return !error && length != arrow->length ? -EBADMSG : error;
}

/* Return the names of the children; those that are not UTF-8 are a ValueError. */
static PyObject *shm_arrow_names(const struct ArrowSchema *schema)
{
        Py_ssize_t count = strcmp(schema->format, "+s") == 0 ? (Py_ssize_t)schema->n_children : 0, i;
        PyObject *names = PyTuple_New(count);

        for (i = 0; i < count && names != NULL; i++) {
                const char *name = schema->children[i]->name;
                PyObject *text = PyUnicode_DecodeUTF8(name == NULL ? "" : name, name == NULL ? 0 : (Py_ssize_t)strlen(name),
                                                      NULL);

                if (text == NULL || PyTuple_SetItem(names, i, text) < 0)
                        Py_CLEAR(names);
        }
        return names;
}

/*
 * arrow_check(buffer): check all structs; return flags, number of batches, length, format, and names of columns.
 * ValueError: they are corrupt.
 */
static PyObject *shm_arrow_check_call(PyObject *self, PyObject *object)
{
        struct ArrowSchema schema;
        struct shm_arrow arrow;
        PyObject *names, *result = NULL;
        Py_buffer view;
        int error;

        (void)self;
        if (PyObject_GetBuffer(object, &view, PyBUF_SIMPLE) < 0)
                return NULL;
        error = shm_arrow_open(view.buf, (uint64_t)view.len, &arrow);
        error = error ? error : shm_arrow_schema(&arrow, &schema);
        if (!error) {
                error = shm_arrow_check_all(&arrow, &schema);
                names = error ? NULL : shm_arrow_names(&schema);
                if (names != NULL)
                        result = Py_BuildValue("(kLLsN)", (unsigned long)arrow.flags, (long long)arrow.batch_count,
                                               (long long)arrow.length, schema.format, names);
                schema.release(&schema);
        }
        PyBuffer_Release(&view);
        return error ? shm_arrow_raise(error) : result;
}

static void shm_arrow_pulled_end(PyObject *capsule)
{
        struct shm_arrow_pulled *pulled = (struct shm_arrow_pulled *)PyCapsule_GetPointer(capsule, SHM_ARROW_PULLED);
        size_t i;

        for (i = 0; i < pulled->count; i++)
                if (pulled->batches[i].release != NULL)
                        pulled->batches[i].release(&pulled->batches[i]);
        if (pulled->schema.release != NULL)
                pulled->schema.release(&pulled->schema);
        free(pulled->batches);
        free(pulled);
}

/* Read a stream to its end, without the GIL. Returns 0, an errno of the stream's, or -ENOMEM. */
static int shm_arrow_pull_all(struct ArrowArrayStream *stream, struct shm_arrow_pulled *pulled)
{
        int error = stream->get_schema(stream, &pulled->schema);

        while (!error) {
                if (pulled->count == pulled->room) {
                        size_t room = 2 * pulled->room + 16;
                        void *more = realloc(pulled->batches, room * sizeof(*pulled->batches));

                        if (more == NULL)
                                return -ENOMEM;
                        pulled->batches = (struct ArrowArray *)more;
                        pulled->room = room;
                }
                pulled->batches[pulled->count].release = NULL;
                error = stream->get_next(stream, &pulled->batches[pulled->count]);
                if (error || pulled->batches[pulled->count].release == NULL)
                        break;
                pulled->count++;
        }
        return error;
}

static PyObject *shm_arrow_addresses(const struct shm_arrow_pulled *pulled)
{
        PyObject *list = PyList_New((Py_ssize_t)pulled->count);
        size_t i;

        for (i = 0; i < pulled->count && list != NULL; i++) {
                PyObject *address = PyLong_FromVoidPtr(&pulled->batches[i]);

                if (address == NULL || PyList_SetItem(list, (Py_ssize_t)i, address) < 0)
                        Py_CLEAR(list);
        }
        return list;
}

/*
 * arrow_pull(stream): read the stream of a capsule to its end; return what keeps the structs, and the addresses of the
 * schema and of each batch. OSError: the stream's own error.
 */
static PyObject *shm_arrow_pull_call(PyObject *self, PyObject *object)
{
        struct ArrowArrayStream *stream =
                (struct ArrowArrayStream *)PyCapsule_GetPointer(object, "arrow_array_stream");
        PyObject *capsule, *addresses;
        void *pulled;
        int error;

        (void)self;
        if (stream == NULL)
                return NULL;
        if (stream->release == NULL) {
                PyErr_SetString(PyExc_ValueError, "the stream was read already");
                return NULL;
        }
        capsule = shm_arrow_capsule(sizeof(struct shm_arrow_pulled), SHM_ARROW_PULLED, shm_arrow_pulled_end, &pulled);
        if (capsule == NULL)
                return NULL;
        Py_BEGIN_ALLOW_THREADS
        error = shm_arrow_pull_all(stream, (struct shm_arrow_pulled *)pulled);
        Py_END_ALLOW_THREADS
        if (error == 0) {
                addresses = shm_arrow_addresses((struct shm_arrow_pulled *)pulled);
                return addresses == NULL ? (Py_DECREF(capsule), NULL) :
                                           Py_BuildValue("(NNN)", capsule, PyLong_FromVoidPtr(pulled), addresses);
        }
        Py_DECREF(capsule);
        if (error == -ENOMEM)
                return PyErr_NoMemory();
        if (!PyErr_Occurred()) {
                const char *text = stream->get_last_error(stream);

                PyErr_Format(PyExc_OSError, "the producer of the Arrow stream failed: %.500s", text == NULL ? strerror(error) : text);
        }
        return NULL;
}

/* arrow_address(capsule): the address of the struct in a capsule of Arrow's. */
static PyObject *shm_arrow_address_call(PyObject *self, PyObject *object)
{
        const char *name = PyCapsule_CheckExact(object) ? PyCapsule_GetName(object) : NULL;

        (void)self;
        if (name == NULL || strncmp(name, "arrow_", 6) != 0) {
                PyErr_SetString(PyExc_TypeError, "this is not a capsule with a struct of Arrow's");
                return NULL;
        }
        return PyLong_FromVoidPtr(PyCapsule_GetPointer(object, name));
}

#endif /* SHM_ARROW_BUILTINS_H */
