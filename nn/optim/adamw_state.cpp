// The state of AdamW as named tensors.
#include <string_view>
#include <unordered_map>

#include "nn/optim/adamw.h"

namespace camo {

std::vector<int64_t> AdamW::step_counts() const {
  std::vector<int64_t> counts;
  for (const std::vector<State>& group : states_) {
    for (const State& state : group) counts.push_back(state.step);
  }
  return counts;
}

void AdamW::set_step_counts(const std::vector<int64_t>& counts) {
  const size_t expected = step_counts().size();
  CAMO_CHECK(counts.size() == expected, "AdamW: needs one step count for each of its ", expected, " parameters; got ",
             counts.size());
  auto count = counts.begin();
  for (const std::vector<State>& group : states_) {
    for (const State& state : group) {
      CAMO_CHECK(*count == 0 || (*count > 0 && state.exp_avg.defined()),
                 "AdamW: step counts must not be negative, and 0 before a parameter's first step; got ", *count);
      ++count;
    }
  }
  auto next = counts.begin();
  for (std::vector<State>& group : states_) {
    for (State& state : group) state.step = *next++;
  }
}

StateDict AdamW::state_dict() const {
  StateDict state;
  for (size_t g = 0; g < groups_.size(); ++g) {
    for (size_t i = 0; i < states_[g].size(); ++i) {
      const std::string& name = groups_[g].parameters[i].name;
      const State& own = states_[g][i];
      if (own.step == 0) continue;  // no gradient yet
      state.emplace_back(name + ".exp_avg", clone(own.exp_avg));
      state.emplace_back(name + ".exp_avg_sq", clone(own.exp_avg_sq));
      state.emplace_back(name + ".step", from_vector<int64_t>({own.step}, {}, cpu));
    }
  }
  return state;
}

void AdamW::load_state_dict(const StateDict& state) {
  std::unordered_map<std::string, const Tensor*> given;
  for (const auto& [name, values] : state) {
    CAMO_CHECK_CODE(checkpoint, given.emplace(name, &values).second, "AdamW: state names must be unique; got '", name,
                    "' twice");
  }
  const auto take = [&](const std::string& name) -> const Tensor* {
    const auto found = given.find(name);
    if (found == given.end()) return nullptr;
    const Tensor* values = found->second;
    given.erase(found);
    return values;
  };
  std::vector<std::vector<State>> loaded;
  for (const ParameterGroup& group : groups_) {
    std::vector<State>& states = loaded.emplace_back(group.parameters.size());
    for (size_t i = 0; i < states.size(); ++i) {
      const auto& [name, parameter, layout, is_buffer] = group.parameters[i];
      const Tensor *mean = take(name + ".exp_avg"), *square = take(name + ".exp_avg_sq"), *step = take(name + ".step");
      if (mean == nullptr && square == nullptr && step == nullptr) continue;  // had no gradient yet
      CAMO_CHECK_CODE(checkpoint, mean != nullptr && square != nullptr && step != nullptr, "AdamW: the state of '",
                      name, "' must have exp_avg, exp_avg_sq and step; at least one is missing");
      CAMO_CHECK_CODE(checkpoint, mean->shape() == parameter.shape() && square->shape() == parameter.shape(),
                      "AdamW: the state of '", name, "' must be ", parameter.shape(), "; got exp_avg ", mean->shape(),
                      ", exp_avg_sq ", square->shape());
      CAMO_CHECK_CODE(checkpoint, step->numel() == 1 && step->item() >= 1, "AdamW: the step count of '", name,
                      "' must be one positive number; got shape ", step->shape(),
                      step->numel() == 1 ? concat_text(", value ", step->item()) : "");
      states[i] = {empty_like(parameter), empty_like(parameter), static_cast<int64_t>(step->item())};
      copy_into(states[i].exp_avg, *mean);
      copy_into(states[i].exp_avg_sq, *square);
    }
  }
  CAMO_CHECK_CODE(checkpoint, given.empty(), "AdamW: the state has ", given.size(),
                  " tensors that fit no parameter; got '", given.empty() ? "" : given.begin()->first, "'");
  states_ = std::move(loaded);
}

}  // namespace camo
