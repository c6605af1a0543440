// A line for each check, and the count of those that failed.
#pragma once
#include <cstdio>
#include <string>
#include <vector>

namespace kernel_tests {

class Report {
 public:
  // `ratio`: the worst error, as a share of what is allowed. NaN fails.
  void bounded(const std::string& check, double ratio, const std::string& where) {
    line(ratio <= 1.0, check, "worst " + std::to_string(ratio) + " of the bound, at " + where);
  }
  void that(const std::string& check, bool holds, const std::string& otherwise = "") {
    line(holds, check, holds ? "" : otherwise);
  }
  int failures() const { return failures_; }
  int checks() const { return checks_; }

 private:
  void line(bool holds, const std::string& check, const std::string& detail) {
    std::printf("%s  %-44s %s\n", holds ? "ok    " : "FAILED", check.c_str(), detail.c_str());
    std::fflush(stdout);
    ++checks_;
    failures_ += !holds;
  }
  int checks_ = 0, failures_ = 0;
};

void test_elementary(Report&, const std::string& isa);
void test_behavior(Report&, const std::string& isa);
void test_refusals(Report&, const std::string& isa);
void test_sampling(Report&, const std::string& isa);
void test_filters(Report&, const std::string& isa);
void test_scribbling(Report&, const std::string& isa);
void test_one_answer(Report&, const std::string& isa);
void test_random(Report&);
void test_attention(Report&, const std::vector<std::string>& isas);  // the formula once, for all of them
void test_scores(Report&, const std::vector<std::string>& isas);
void test_far(Report&, const std::vector<std::string>& isas);
void test_hard(Report&, const std::vector<std::string>& isas);
void test_backward(Report&, const std::vector<std::string>& isas);
void test_backward_edges(Report&, const std::string& isa);
void test_backward_refusals(Report&);
void test_tangents(Report&, const std::string& isa);
void test_dropout(Report&, const std::vector<std::string>& isas);
void test_paged(Report&, const std::vector<std::string>& isas);
void test_old_cpu(Report&);

}  // namespace kernel_tests
