;; A consumer for Sandpost in WebAssembly's text. It counts the orders of each customer (the message's key) in the state, and
;; publishes the order itself to `invoice.due`. An order without a key is rejected.
;;
;; The bus calls `handle` with the address of the message and the delivery, laid out as the component model's canonical ABI
;; has it, and is given the address of the result. It puts the message where `cabi_realloc` says.
;;
;; Memory: texts from 16 on; what is handed to the bus and answered by it from 256 on; messages from 4,096 on, which are
;; forgotten after each call.
(module
  (import "sandpost:consumer/bus@0.1.0" "publish" (func $publish (param $event i32) (param $answer i32)))
  (import "sandpost:consumer/state@0.1.0" "get" (func $get (param $key i32) (param $bytes i32) (param $answer i32)))
  (import "sandpost:consumer/state@0.1.0" "set"
    (func $set (param $key i32) (param $bytes i32) (param $value i32) (param $value_bytes i32) (param $answer i32)))

  (memory (export "memory") 1)
  (data (i32.const 16) "invoice.due")
  (data (i32.const 32) "an order needs a key")

  ;; The next free byte.
  (global $free (mut i32) (i32.const 4096))

  (func (export "cabi_realloc") (param $old i32) (param $old_bytes i32) (param $align i32) (param $bytes i32) (result i32)
    (local $at i32) (local $pages i32)
    (local.set $at (i32.and
      (i32.sub (i32.add (global.get $free) (local.get $align)) (i32.const 1))
      (i32.sub (i32.const 0) (local.get $align))))
    (global.set $free (i32.add (local.get $at) (local.get $bytes)))
    (local.set $pages (i32.sub
      (i32.shr_u (i32.add (global.get $free) (i32.const 65535)) (i32.const 16))
      (memory.size)))
    (if (i32.gt_s (local.get $pages) (i32.const 0))
      (then (if (i32.eq (memory.grow (local.get $pages)) (i32.const -1)) (then unreachable))))
    (local.get $at))

  (func (export "cabi_post_handle") (param $result i32)
    (global.set $free (i32.const 4096)))

  ;; The result is at 256: whether it failed (u8), then at 264 how (0 retry, 1 reject, 2 unavailable), at 272 the reason.
  (func $ack (result i32)
    (memory.fill (i32.const 256) (i32.const 0) (i32.const 40))
    (i32.const 256))
  (func $fail (param $kind i32) (param $reason i32) (param $bytes i32) (result i32)
    (drop (call $ack))
    (i32.store8 (i32.const 256) (i32.const 1))
    (i32.store8 (i32.const 264) (local.get $kind))
    (i32.store (i32.const 272) (local.get $reason))
    (i32.store (i32.const 276) (local.get $bytes))
    (i32.const 256))
  ;; What the bus answers is at 320: whether it refused (u8), and why, at 328.
  (func $refused (result i32)
    (i32.load8_u (i32.const 320)))
  (func $retry (result i32)
    (call $fail (i32.const 0) (i32.load (i32.const 328)) (i32.load (i32.const 332))))

  (func (export "handle") (param $call i32) (result i32)
    (local $key i32) (local $key_bytes i32) (local $count i64)
    ;; The key is an option at 44: whether there is one, then where it is, and its bytes.
    (if (i32.eqz (i32.load8_u offset=44 (local.get $call)))
      (then (return (call $fail (i32.const 1) (i32.const 32) (i32.const 20)))))
    (local.set $key (i32.load offset=48 (local.get $call)))
    (local.set $key_bytes (i32.load offset=52 (local.get $call)))

    ;; The count is eight bytes. A key that was never set has none.
    (call $get (local.get $key) (local.get $key_bytes) (i32.const 320))
    (if (call $refused) (then (return (call $retry))))
    (if (i32.load8_u (i32.const 324))
      (then (local.set $count (i64.load (i32.load (i32.const 328))))))
    (i64.store (i32.const 344) (i64.add (local.get $count) (i64.const 1)))
    (call $set (local.get $key) (local.get $key_bytes) (i32.const 344) (i32.const 8) (i32.const 320))
    (if (call $refused) (then (return (call $retry))))

    ;; The event is at 400: its topic at 0, its key at 16, its content type at 52, its data at 72.
    (memory.fill (i32.const 400) (i32.const 0) (i32.const 112))
    (i32.store (i32.const 400) (i32.const 16))
    (i32.store (i32.const 404) (i32.const 11))
    (memory.copy (i32.const 416) (i32.add (local.get $call) (i32.const 44)) (i32.const 12))
    (memory.copy (i32.const 452) (i32.add (local.get $call) (i32.const 56)) (i32.const 12))
    (i64.store (i32.const 472) (i64.load offset=88 (local.get $call)))
    (call $publish (i32.const 400) (i32.const 320))
    (if (call $refused) (then (return (call $retry))))
    (call $ack)))
