// The C functions that library.py calls. Each returns 0, or -1 with a message in fathom_error().
#include <cmath>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <string>

#include "model.h"
#include "multiply.h"

#define FATHOM_API extern "C" __attribute__((visibility("default")))

namespace {

using namespace fathom;

thread_local std::string last_error;

// No exception crosses into C.
template <class Function>
int guarded(Function f) noexcept {
  try {
    f();
    return 0;
  } catch (const std::bad_alloc&) {
    last_error = "not enough memory";
  } catch (const std::exception& error) {
    last_error = error.what();
  }
  return -1;
}

void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

Matrix matrix_from(int type, int64_t rows, int64_t columns, const uint8_t* stored, int64_t bytes, Arena& arena) {
  require(stored && rows > 0 && columns > 0 && rows < (1 << 28) && columns < (1 << 28), "bad size of a matrix");
  int64_t expected = stored_bytes(Type(type), rows, columns);
  require(expected > 0 && expected == bytes, "the bytes do not fit the type and size");
  Matrix matrix = make_matrix(Type(type), int(rows), int(columns), 1, arena);
  pack_blocks(matrix, 0, stored, 0, round_up(int(rows), kBlockRows) / kBlockRows);
  return matrix;
}

}  // namespace

FATHOM_API const char* fathom_error() { return last_error.c_str(); }
FATHOM_API const char* fathom_variant() { return kVariant; }

FATHOM_API int fathom_model_new(const Config* config, void** out) {
  return guarded([&] {
    require(config && out, "null argument");
    *out = new Model(*config);
  });
}

FATHOM_API void fathom_model_free(void* model) { delete static_cast<Model*>(model); }

FATHOM_API int64_t fathom_model_page_bytes(void* model) { return static_cast<Model*>(model)->page_bytes; }

FATHOM_API int fathom_model_page(void* model, int page, uint8_t** out) {
  return guarded([&] {
    require(model && out, "null argument");
    const Model& m = *static_cast<Model*>(model);
    require(0 <= page && page < m.config.pages, "this page does not exist");
    *out = m.page_start(page);
  });
}

FATHOM_API int fathom_model_matrix(void* model, int layer, int role, int part, int type, int64_t rows, int64_t columns,
                                   const uint8_t* stored, int64_t bytes) {
  return guarded([&] {
    require(model && stored, "null argument");
    require(rows > 0 && columns > 0 && rows < (1 << 28) && columns < (1 << 28), "bad size of a matrix");
    static_cast<Model*>(model)->set_matrix(layer, MatrixRole(role), part, Type(type), int(rows), int(columns), stored, bytes);
  });
}

FATHOM_API int fathom_model_vector(void* model, int layer, int role, int64_t n, const float* values) {
  return guarded([&] {
    require(model && values && n > 0 && n < (1 << 28), "bad vector");
    static_cast<Model*>(model)->set_vector(layer, VectorRole(role), int(n), values);
  });
}

FATHOM_API int fathom_model_rotary(void* model, int64_t positions, int64_t half, const float* cosine, const float* sine) {
  return guarded([&] {
    require(model && cosine && sine && positions > 0 && positions < (1 << 30) && half > 0 && half < (1 << 16), "bad rotary table");
    static_cast<Model*>(model)->set_rotary(int(positions), int(half), cosine, sine);
  });
}

FATHOM_API int fathom_model_check(void* model) {
  return guarded([&] { static_cast<const Model*>(model)->check_complete(); });
}

// `down` [rank, columns] and `up` [rows, rank], both as `type` stores them.
FATHOM_API int fathom_adapter_set(void* model, int adapter, int layer, int role, int type, int64_t rank, int64_t rows, int64_t columns,
                                  float scale, const uint8_t* down, int64_t down_bytes, const uint8_t* up, int64_t up_bytes) {
  return guarded([&] {
    require(model && down && up, "null argument");
    require(rows > 0 && columns > 0 && rank > 0 && rows < (1 << 28) && columns < (1 << 28) && rank < (1 << 28), "bad size of an adapter");
    require(down_bytes == stored_bytes(Type(type), rank, columns) && up_bytes == stored_bytes(Type(type), rows, rank), "the bytes do not fit the type and size");
    static_cast<Model*>(model)->set_adapter(adapter, layer, MatrixRole(role), Type(type), int(rank), int(rows), int(columns), scale, down, up);
  });
}

FATHOM_API int fathom_adapter_drop(void* model, int adapter) {
  return guarded([&] { static_cast<Model*>(model)->drop_adapter(adapter); });
}

// `sizes` holds six numbers a sequence: tokens, start, pages, logits_from, adapter, level_row; `tokens` and `pages` are the
// sequences' own, joined. `depth` is -1 for a step of the main model, else the number of a prediction module.
FATHOM_API int fathom_model_step(void* model, int depth, int64_t n, const int32_t* sizes, const int32_t* tokens, int64_t n_tokens,
                                 const int32_t* pages, int64_t n_pages, float* logits, int64_t logits_rows) {
  return guarded([&] {
    require(model && (sizes || n == 0) && (tokens || n_tokens == 0) && (pages || n_pages == 0) && (logits || logits_rows == 0), "null argument");
    require(n >= 0 && n < (1 << 20), "bad number of sequences");
    std::vector<Sequence> sequences;
    int64_t token = 0, page = 0;
    for (int64_t i = 0; i < n; i++, sizes += 6) {
      require(sizes[0] >= 0 && sizes[2] >= 0 && token + sizes[0] <= n_tokens && page + sizes[2] <= n_pages, "the sizes exceed the arrays");
      sequences.push_back({tokens + token, sizes[0], sizes[1], pages + page, sizes[2], sizes[3], sizes[4], depth < 0 ? -1 : sizes[5], 0, -1});
      token += sizes[0], page += sizes[2];
    }
    require(token == n_tokens && page == n_pages, "the sizes do not cover the arrays");
    if (depth < 0) static_cast<Model*>(model)->step(sequences, logits, logits_rows);
    else static_cast<Model*>(model)->predict(depth, sequences, logits, logits_rows);
  });
}

// For tests and tools: out[m][rows] = x[m][columns] times the transposed stored matrix.
FATHOM_API int fathom_product(int type, int64_t rows, int64_t columns, const uint8_t* stored, int64_t bytes, const float* x,
                              int64_t m, float* out) {
  return guarded([&] {
    require(x && out && m > 0 && m < (1 << 20), "bad activations");
    Arena arena;
    Matrix w = matrix_from(type, rows, columns, stored, bytes, arena);
    OwnActivations activations;
    activations.reserve(int(m), int(columns));
    activations.columns = w.groups * kGroup;
    std::vector<float> padded(size_t(activations.columns));
    for (int row = 0; row < m; row++) {
      std::memcpy(padded.data(), x + row * columns, size_t(columns) * 4);
      activations.represent(row, activations.columns, padded.data(), w.kernel->needs);
    }
    for (int block = 0; int64_t(block) * kBlockRows < rows; block++)
      multiply_block(w, block, activations, 0, int(m), [&](int row, F32 value) {
        float* to = out + row * rows + block * kBlockRows;
        const int64_t left = rows - block * kBlockRows;
        if (left >= kLanes) value.store(to);
        else value.store_first(to, int(left));
      });
  });
}

// For tests: the values of a stored matrix, read back from the packed order.
FATHOM_API int fathom_dequantise(int type, int64_t rows, int64_t columns, const uint8_t* stored, int64_t bytes, float* out) {
  return guarded([&] {
    Arena arena;
    Matrix w = matrix_from(type, rows, columns, stored, bytes, arena);
    std::vector<float> padded(size_t(w.groups) * kGroup);
    for (int row = 0; row < rows; row++) {
      w.row_values(row, padded.data());
      std::memcpy(out + row * columns, padded.data(), size_t(columns) * 4);
    }
  });
}
