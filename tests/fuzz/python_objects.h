/*
 * python_objects.h - as much of Python as the readers of frames use, so that they run without an interpreter, a
 * hundred times as fast. It counts references: an input that leaves an object, or frees one twice, ends the process.
 */
#ifndef PYTHON_OBJECTS_H
#define PYTHON_OBJECTS_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef ptrdiff_t Py_ssize_t;
typedef struct object {
        long references;
        struct object **items;
        Py_ssize_t count;
        char *bytes;
        Py_ssize_t size;
} PyObject;

static PyObject none_object, true_object, false_object, value_object, decode_error;
static PyObject *Py_None = &none_object, *Py_True = &true_object, *Py_False = &false_object;
static PyObject *PyExc_UnicodeDecodeError = &decode_error, *PyExc_ValueError = &value_object;
static PyObject *raised;
static long live_objects;

static int is_static(const PyObject *object)
{
        return object == &none_object || object == &true_object || object == &false_object || object == &value_object;
}

static PyObject *object_new(void)
{
        PyObject *object = (PyObject *)calloc(1, sizeof(*object));

        if (object == NULL)
                abort();
        object->references = 1;
        live_objects++;
        return object;
}

static void Py_DECREF(PyObject *object)
{
        if (is_static(object) || --object->references > 0)
                return;
        for (Py_ssize_t i = 0; i < object->count; i++)
                if (object->items[i] != NULL)
                        Py_DECREF(object->items[i]);
        free(object->items);
        free(object->bytes);
        free(object);
        live_objects--;
}

static void Py_XDECREF(PyObject *object)
{
        if (object != NULL)
                Py_DECREF(object);
}

static PyObject *Py_NewRef(PyObject *object)
{
        object->references++;
        return object;
}

#define Py_CLEAR(object)                     \
        do {                                 \
                PyObject *cleared = object;  \
                object = NULL;               \
                Py_XDECREF(cleared);         \
        } while (0)

static PyObject *PyErr_Occurred(void)
{
        return raised;
}

static void PyErr_Clear(void)
{
        raised = NULL;
}

static int PyErr_ExceptionMatches(PyObject *kind)
{
        return raised == kind;
}

static void PyErr_SetString(PyObject *kind, const char *text)
{
        (void)text;
        raised = kind;
}

#define PyErr_Format(kind, ...) PyErr_SetString(kind, "")

static PyObject *PyLong_FromUnsignedLongLong(unsigned long long number)
{
        (void)number;
        return object_new();
}

static void object_add(PyObject *list, PyObject *item)
{
        list->items = (PyObject **)realloc(list->items, (size_t)(list->count + 1) * sizeof(item));
        if (list->items == NULL)
                abort();
        list->items[list->count++] = item;
}

static PyObject *PyList_New(Py_ssize_t count)
{
        (void)count;
        return object_new();
}

static int PyList_Append(PyObject *list, PyObject *item)
{
        object_add(list, Py_NewRef(item));
        return 0;
}

static PyObject *PyList_GetItem(PyObject *list, Py_ssize_t index)
{
        return index < list->count ? list->items[index] : NULL;
}

static Py_ssize_t PyList_Size(PyObject *list)
{
        return list->count;
}

static PyObject *PyTuple_New(Py_ssize_t count)
{
        PyObject *tuple = object_new();

        while (count-- > 0)
                object_add(tuple, NULL);
        return tuple;
}

static int PyTuple_SetItem(PyObject *tuple, Py_ssize_t index, PyObject *item)
{
        if (index >= tuple->count)
                abort();
        tuple->items[index] = item;
        return 0;
}

/* Read each byte, as the decoder does; a name with a byte that no UTF-8 has is not one. */
static PyObject *PyUnicode_DecodeUTF8(const char *text, Py_ssize_t size, const char *errors)
{
        (void)errors;
        for (Py_ssize_t i = 0; i < size; i++)
                if ((uint8_t)text[i] >= 0xf8) {
                        raised = PyExc_UnicodeDecodeError;
                        return NULL;
                }
        return object_new();
}

static PyObject *PyDict_GetItemWithError(PyObject *dict, PyObject *name)
{
        (void)dict;
        return name->references == 1 ? &value_object : NULL;
}

static int PyBytes_AsStringAndSize(PyObject *bytes, char **text_out, Py_ssize_t *size_out)
{
        *text_out = bytes->bytes;
        *size_out = bytes->size;
        return 0;
}

static PyObject *PyBytes_FromStringAndSize(const char *text, Py_ssize_t size)
{
        PyObject *bytes = object_new();

        bytes->bytes = (char *)calloc(1, (size_t)size + 1);
        bytes->size = size;
        if (bytes->bytes == NULL)
                abort();
        if (text != NULL)
                memcpy(bytes->bytes, text, (size_t)size);
        return bytes;
}

static char *PyBytes_AsString(PyObject *bytes)
{
        return bytes->bytes;
}

/* K and n: a number; O: an object; N: one that the tuple takes. */
static PyObject *Py_BuildValue(const char *format, ...)
{
        PyObject *tuple = object_new();
        va_list arguments;

        va_start(arguments, format);
        for (; *format != 0; format++) {
                if (*format == 'K')
                        (void)va_arg(arguments, unsigned long long);
                else if (*format == 'n')
                        (void)va_arg(arguments, Py_ssize_t);
                else if (*format == 'O')
                        object_add(tuple, Py_NewRef(va_arg(arguments, PyObject *)));
                else if (*format == 'N')
                        object_add(tuple, va_arg(arguments, PyObject *));
        }
        va_end(arguments);
        return tuple;
}

static int shm_arguments_check(const char *name, Py_ssize_t count, Py_ssize_t wanted)
{
        (void)name;
        return count == wanted ? 0 : -1;
}

static int shm_argument(PyObject *const *arguments, Py_ssize_t index, uint64_t *value_out)
{
        (void)arguments;
        *value_out = (uint64_t)index;
        return 0;
}

/* --- for functions beside the readers, which no input reaches */

struct shm_publication {
        const char *name;
        Py_ssize_t name_size;
        uint64_t request, region, size, data_size, metadata, metadata_size, lease;
};

static PyObject *PyTuple_GetItem(PyObject *tuple, Py_ssize_t index)
{
        return PyList_GetItem(tuple, index);
}

static Py_ssize_t PyTuple_Size(PyObject *tuple)
{
        return tuple->count;
}

static const char *PyUnicode_AsUTF8AndSize(PyObject *text, Py_ssize_t *size_out)
{
        *size_out = text->size;
        return text->bytes;
}

static int shm_numbers(PyObject *tuple, Py_ssize_t index, uint64_t *numbers_out, int count)
{
        (void)tuple;
        while (count-- > 0)
                *numbers_out++ = (uint64_t)index;
        return 0;
}

#endif /* PYTHON_OBJECTS_H */
