#include "platform/ptx/operations.h"

#include <map>

namespace sslkern::ptx {
namespace {

using Table = std::map<std::string, Operation>;

Table table_of(std::initializer_list<std::vector<Operation>> groups) {
  Table table;
  for (const auto& group : groups) {
    for (const Operation& operation : group) table[operation.opcode] = operation;
  }
  return table;
}

const Operation* find(const Table& table, const std::string& opcode) {
  const auto found = table.find(opcode);
  return found == table.end() ? nullptr : &found->second;
}

}  // namespace

const Operation* find_operation(const std::string& opcode, bool floating) {
  static const Table reals = table_of({floating_operations()});
  static const Table others = table_of({
      integer_operations(),
      bit_operations(),
      compare_operations(),
      convert_operations(),
      move_operations(),
      memory_operations(),
      atomic_operations(),
      control_operations(),
      warp_operations(),
      matrix_operations(),
      copy_operations(),
  });
  const Operation* found = floating ? find(reals, opcode) : nullptr;
  return found == nullptr ? find(others, opcode) : found;
}

}  // namespace sslkern::ptx
