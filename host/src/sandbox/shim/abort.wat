;; `env.abort`, which AssemblyScript calls where something is thrown. Its strings are UTF-16, and their length in bytes
;; stands before them; a null pointer is no string.
(module
  (import "sandpost:shim/host" "abort" (func $abort (param i32 i32 i32 i32 i32 i32)))
  (import "env" "memory" (memory 0))
  (func (export "abort") (param $message i32) (param $file i32) (param $line i32) (param $column i32)
    (call $abort
      (local.get $message) (call $units (local.get $message))
      (local.get $file) (call $units (local.get $file))
      (local.get $line) (local.get $column))
    unreachable)
  (func $units (param $string i32) (result i32)
    (if (result i32) (local.get $string)
      (then (i32.shr_u (i32.load (i32.sub (local.get $string) (i32.const 4))) (i32.const 1)))
      (else (i32.const 0)))))
