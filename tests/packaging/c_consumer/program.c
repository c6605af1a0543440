/* Attention of two queries over three keys, against the formula. Prints what is wrong, and returns how much of it. */
#include <foveate/foveate.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { QUERIES = 2, KEYS = 3, SIZE = 4 };

static fv_array matrix(double* data, const int64_t* shape, const int64_t* strides) {
  fv_array view;
  view.data = data;
  view.dtype = FV_FLOAT64;
  view.ndim = 2;
  view.shape = shape;
  view.strides = strides;
  return view;
}

static void plain(double query[][SIZE], double key[][SIZE], double value[][SIZE], double out[][SIZE]) {
  for (int i = 0; i < QUERIES; ++i) {
    double sum = 0;
    memset(out[i], 0, sizeof out[i]);
    for (int j = 0; j < KEYS; ++j) {
      double score = 0;
      for (int d = 0; d < SIZE; ++d) score += query[i][d] * key[j][d];
      sum += exp(score);
      for (int d = 0; d < SIZE; ++d) out[i][d] += exp(score) * value[j][d];
    }
    for (int d = 0; d < SIZE; ++d) out[i][d] /= sum;
  }
}

/* Keys of int8 and values that become int4, which hold these numbers exactly. */
static int few_bits(const fv_array* queries, double wanted[][SIZE], const fv_array* answer, double out[][SIZE]) {
  const signed char key[KEYS][SIZE] = {{4, 0, -4, 2}, {1, 2, 3, 4}, {-4, 4, 0, 0}}; /* quarters */
  double value[KEYS][SIZE] = {{1, 2, 3, 7}, {5, 6, 7, 4}, {-1, -2, -7, -4}};
  unsigned char pairs[KEYS][SIZE / 2];
  float key_scale[KEYS] = {0.25f, 0.25f, 0.25f}, value_scale[KEYS];
  double keys_before[KEYS][SIZE], query[QUERIES][SIZE];
  const int64_t shape[2] = {KEYS, SIZE}, one[2] = {KEYS, 1};
  const int64_t of_keys[2] = {SIZE, 1}, of_pairs[2] = {SIZE / 2, 1};
  const int64_t of_scales[2] = {sizeof(float), sizeof(float)}, of_values[2] = {SIZE * sizeof(double), sizeof(double)};
  const fv_array keys = {(void*)key, FV_INT8, 2, shape, of_keys}, values = {pairs, FV_INT4, 2, shape, of_pairs};
  const fv_array key_scales = {key_scale, FV_FLOAT32, 2, one, of_scales};
  const fv_array value_scales = {value_scale, FV_FLOAT32, 2, one, of_scales};
  const fv_array given = matrix(value[0], shape, of_values);
  fv_problem problem;
  fv_error error;
  int wrong = 0;
  if (fv_quantize(&given, 0, &values, &value_scales, &error) != FV_OK) {
    printf("refused: %s\n", error.message);
    return 1;
  }
  memset(&problem, 0, sizeof problem);
  problem.query = queries;
  problem.key = &keys;
  problem.key_scale = &key_scales;
  problem.value = &values;
  problem.value_scale = &value_scales;
  problem.score.scale = 1;
  problem.reach.left = problem.reach.right = -1;
  if (fv_attention(&problem, answer, NULL, &error) != FV_OK) {
    printf("refused: %s\n", error.message);
    return 1;
  }
  memcpy(query, queries->data, sizeof query);
  for (int j = 0; j < KEYS; ++j)
    for (int d = 0; d < SIZE; ++d) keys_before[j][d] = 0.25 * key[j][d];
  plain(query, keys_before, value, wanted);
  for (int i = 0; i < QUERIES; ++i)
    for (int d = 0; d < SIZE; ++d)
      if (fabs(out[i][d] - wanted[i][d]) > 1e-14) {
        printf("few bits, out[%d][%d]: got %.17g, wanted %.17g\n", i, d, out[i][d], wanted[i][d]);
        ++wrong;
      }
  return wrong;
}

int main(void) {
  double query[QUERIES][SIZE] = {{0.5, -1, 0.25, 2}, {-0.5, 0.75, 1, -2}};
  double key[KEYS][SIZE] = {{1, 0, -1, 0.5}, {0.25, 0.5, 0.75, 1}, {-1, 1, 0, 0}};
  double value[KEYS][SIZE] = {{1, 2, 3, 4}, {5, 6, 7, 8}, {-1, -2, -3, -4}};
  double out[QUERIES][SIZE], wanted[QUERIES][SIZE];
  const int64_t few[2] = {QUERIES, SIZE}, many[2] = {KEYS, SIZE}, strides[2] = {SIZE * sizeof(double), sizeof(double)};
  const fv_array queries = matrix(query[0], few, strides), keys = matrix(key[0], many, strides);
  const fv_array values = matrix(value[0], many, strides), answer = matrix(out[0], few, strides);
  fv_problem problem;
  fv_error error;
  int wrong = 0;

#if FV_VERSION < 100
#error "FV_VERSION counts major * 10000 + minor * 100 + patch"
#endif
  if (fv_version() != FV_VERSION) {
    printf("the header is of version %d, the engine of %d\n", FV_VERSION, fv_version());
    return 1;
  }
  memset(&problem, 0, sizeof problem);
  problem.query = &queries;
  problem.key = &keys;
  problem.value = &values;
  problem.score.scale = 1;
  problem.reach.left = problem.reach.right = -1;
  if (fv_attention(&problem, &answer, NULL, &error) != FV_OK) {
    printf("refused: %s\n", error.message);
    return 1;
  }
  plain(query, key, value, wanted);
  for (int i = 0; i < QUERIES; ++i) {
    for (int d = 0; d < SIZE; ++d) {
      if (fabs(out[i][d] - wanted[i][d]) <= 1e-14) continue; /* some ten ulp of values up to 8 */
      printf("out[%d][%d]: got %.17g, wanted %.17g\n", i, d, out[i][d], wanted[i][d]);
      ++wrong;
    }
  }
  if (fv_attention(&problem, &values, NULL, &error) != FV_VALUE_ERROR || strncmp(error.message, "out: got ", 9) != 0) {
    printf("an out of another shape was not refused\n");
    ++wrong;
  }
  wrong += few_bits(&queries, wanted, &answer, out);
  printf("%s: %d wrong\n", fv_isa_selected(), wrong);
  return wrong;
}
