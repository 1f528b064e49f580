;; A consumer that obeys its message: `data` is a list of commands, each one byte for what to do, one for
;; the length of its argument, and the argument. What commands find out is gathered, and told by `J`.
(component
  (import "sandpost:consumer/types@0.1.0" (instance $types
    (type $message (record (field "id" string) (field "source" string) (field "type" string)
      (field "subject" (option string)) (field "topic" string) (field "key" (option string))
      (field "content-type" (option string)) (field "accepted-ms" u64)
      (field "attributes" (list (tuple string string))) (field "data" (list u8))))
    (export "message" (type (eq $message)))
    (type $delivery (record (field "subscription" string) (field "sequence" u64) (field "attempt" u32)
      (field "max-attempts" u32) (field "redrives" u32) (field "first-attempt-ms" u64)
      (field "deadline-ms" u64) (field "idempotency-key" string)))
    (export "delivery" (type (eq $delivery)))
    (type $retry (record (field "reason" string) (field "after-ms" (option u64))))
    (export "retry" (type $retry-named (eq $retry)))
    (type $failure (variant (case "retry" $retry-named) (case "reject" string) (case "unavailable" $retry-named)))
    (export "failure" (type (eq $failure)))))
  (alias export $types "message" (type $message))
  (alias export $types "delivery" (type $delivery))
  (alias export $types "failure" (type $failure))

  (import "sandpost:consumer/bus@0.1.0" (instance $bus
    (type $outgoing (record (field "topic" string) (field "type" string) (field "key" (option string))
      (field "id" (option string)) (field "subject" (option string)) (field "content-type" (option string))
      (field "attributes" (list (tuple string string))) (field "data" (list u8))
      (field "deliver-at-ms" (option u64)) (field "expires-ms" (option u64))))
    (export "outgoing" (type $outgoing-named (eq $outgoing)))
    (type $error (variant (case "not-granted" string) (case "invalid" string) (case "too-large" string)
      (case "too-many" string)))
    (export "publish-error" (type $error-named (eq $error)))
    (export "publish" (func (param "event" $outgoing-named) (result (result (error $error-named)))))))
  (import "sandpost:consumer/state@0.1.0" (instance $state
    (type $error (variant (case "invalid-key" string) (case "too-large" string) (case "full" string)))
    (export "state-error" (type $error-named (eq $error)))
    (type $entry (record (field "key" string) (field "value" (list u8))))
    (export "entry" (type $entry-named (eq $entry)))
    (export "get" (func (param "key" string) (result (result (option (list u8)) (error $error-named)))))
    (export "set" (func (param "key" string) (param "value" (list u8)) (result (result (error $error-named)))))
    (export "delete" (func (param "key" string) (result (result (error $error-named)))))
    (export "scan" (func (param "prefix" string) (param "after" (option string)) (param "limit" u32)
      (result (result (list $entry-named) (error $error-named)))))))
  (import "sandpost:consumer/config@0.1.0" (instance $config
    (export "get" (func (param "name" string) (result (option string))))))
  (import "sandpost:consumer/log@0.1.0" (instance $log
    (type $level (enum "trace" "debug" "info" "warn" "error"))
    (export "level" (type $level-named (eq $level)))
    (export "write" (func (param "level" $level-named) (param "text" string)))))

  (import "wasi:io/error@0.2.0" (instance $io-error (export "error" (type (sub resource)))))
  (alias export $io-error "error" (type $io-error-type))
  (import "wasi:io/poll@0.2.0" (instance $poll
    (export "pollable" (type $pollable (sub resource)))
    (export "[method]pollable.block" (func (param "self" (borrow $pollable))))))
  (alias export $poll "pollable" (type $pollable))
  (import "wasi:io/streams@0.2.0" (instance $streams
    (alias outer 1 $io-error-type (type $outer-error))
    (export "error" (type $error (eq $outer-error)))
    (export "output-stream" (type $stream (sub resource)))
    (type $stream-error (variant (case "last-operation-failed" (own $error)) (case "closed")))
    (export "stream-error" (type $stream-error-named (eq $stream-error)))
    (export "[method]output-stream.blocking-write-and-flush"
      (func (param "self" (borrow $stream)) (param "contents" (list u8))
        (result (result (error $stream-error-named)))))))
  (alias export $streams "output-stream" (type $stream))
  (import "wasi:cli/stderr@0.2.0" (instance $stderr
    (alias outer 1 $stream (type $outer-stream))
    (export "output-stream" (type $stream (eq $outer-stream)))
    (export "get-stderr" (func (result (own $stream))))))
  (import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock
    (alias outer 1 $pollable (type $outer-pollable))
    (export "pollable" (type $pollable (eq $outer-pollable)))
    (export "subscribe-duration" (func (param "when" u64) (result (own $pollable))))))
  (import "wasi:cli/exit@0.2.0" (instance $exit
    (export "exit" (func (param "status" (result))))))

  ;; Memory below 64 KiB is the guest's own; what the host hands in lies above, until the call returns.
  (core module $libc
    (memory (export "memory") 2)
    (global $next (mut i32) (i32.const 65536))
    (func (export "realloc") (param i32 i32) (param $align i32) (param $bytes i32) (result i32)
      (local $at i32)
      (local.set $at (i32.and
        (i32.add (global.get $next) (i32.sub (local.get $align) (i32.const 1)))
        (i32.sub (i32.const 0) (local.get $align))))
      (global.set $next (i32.add (local.get $at) (local.get $bytes)))
      (if (i32.gt_u (global.get $next) (i32.mul (memory.size) (i32.const 65536)))
        (then (if (i32.eq (i32.const -1) (memory.grow (i32.add (i32.const 1)
            (i32.shr_u (i32.sub (global.get $next) (i32.mul (memory.size) (i32.const 65536))) (i32.const 16)))))
          (then unreachable))))
      (local.get $at))
    (func (export "reset") (param i32) (global.set $next (i32.const 65536))))
  (core instance $libc (instantiate $libc))
  (alias core export $libc "memory" (core memory $memory))
  (alias core export $libc "realloc" (core func $realloc))

  (core func $publish (canon lower (func $bus "publish") (memory $memory) (realloc $realloc)))
  (core func $get (canon lower (func $state "get") (memory $memory) (realloc $realloc)))
  (core func $set (canon lower (func $state "set") (memory $memory) (realloc $realloc)))
  (core func $delete (canon lower (func $state "delete") (memory $memory) (realloc $realloc)))
  (core func $scan (canon lower (func $state "scan") (memory $memory) (realloc $realloc)))
  (core func $config (canon lower (func $config "get") (memory $memory) (realloc $realloc)))
  (core func $log (canon lower (func $log "write") (memory $memory) (realloc $realloc)))
  (core func $block (canon lower (func $poll "[method]pollable.block")))
  (core func $stderr (canon lower (func $stderr "get-stderr")))
  (core func $print (canon lower (func $streams "[method]output-stream.blocking-write-and-flush")
    (memory $memory) (realloc $realloc)))
  (core func $after (canon lower (func $clock "subscribe-duration")))
  (core func $exit (canon lower (func $exit "exit")))

  (core module $main
    (import "libc" "memory" (memory 2))
    (import "host" "publish" (func $publish (param i32 i32)))
    (import "host" "get" (func $get (param i32 i32 i32)))
    (import "host" "set" (func $set (param i32 i32 i32 i32 i32)))
    (import "host" "delete" (func $delete (param i32 i32 i32)))
    (import "host" "scan" (func $scan (param i32 i32 i32 i32 i32 i32 i32)))
    (import "host" "config" (func $config (param i32 i32 i32)))
    (import "host" "log" (func $log (param i32 i32 i32)))
    (import "host" "block" (func $block (param i32)))
    (import "host" "stderr" (func $stderr (result i32)))
    (import "host" "print" (func $print (param i32 i32 i32 i32)))
    (import "host" "after" (func $after (param i64) (result i32)))
    (import "host" "exit" (func $exit (param i32)))

    ;; 1024: what `handle` returns. 2048: what imports return. 3072: an outgoing event. 32768: the text told.
    (global $told (mut i32) (i32.const 0))
    (func $tell (param $at i32) (param $bytes i32)
      (memory.copy (i32.add (i32.const 32768) (global.get $told)) (local.get $at) (local.get $bytes))
      (global.set $told (i32.add (global.get $told) (local.get $bytes))))
    (func $tell-byte (param $byte i32)
      (i32.store8 (i32.add (i32.const 32768) (global.get $told)) (local.get $byte))
      (global.set $told (i32.add (global.get $told) (i32.const 1))))
    ;; The error at 2048, as its case's number and its text; nothing where there is none.
    (func $tell-error
      (if (i32.load8_u (i32.const 2048)) (then
        (call $tell-byte (i32.add (i32.const 48) (i32.load8_u (i32.const 2052))))
        (call $tell-byte (i32.const 58))
        (call $tell (i32.load (i32.const 2056)) (i32.load (i32.const 2060))))))
    (func $publish-one (param $at i32) (param $bytes i32)
      (i32.store (i32.const 3072) (local.get $at))
      (i32.store (i32.const 3076) (local.get $bytes))
      (i32.store (i32.const 3144) (local.get $at))
      (i32.store (i32.const 3148) (local.get $bytes))
      (call $publish (i32.const 3072) (i32.const 2048)))
    (func $recurse-for-ever (param $depth i32) (result i32)
      (i32.add (i32.const 1) (call $recurse-for-ever (i32.add (local.get $depth) (i32.const 1)))))
    (func $take-all-memory
      (loop $more (br_if $more (i32.ne (i32.const -1) (memory.grow (i32.const 16))))))
    (func $fail (param $case i32) (param $at i32) (param $bytes i32) (result i32)
      (i32.store8 (i32.const 1024) (i32.const 1))
      (i32.store8 (i32.const 1032) (local.get $case))
      (i32.store (i32.const 1040) (local.get $at))
      (i32.store (i32.const 1044) (local.get $bytes))
      (i32.store8 (i32.const 1048) (i32.eqz (local.get $case)))
      (i64.store (i32.const 1056) (i64.const 1500))
      (i32.const 1024))

    (func $handle (export "handle") (param $params i32) (result i32)
      (local $at i32) (local $end i32) (local $op i32) (local $bytes i32) (local $cut i32) (local $count i32)
      (global.set $told (i32.const 0))
      (memory.fill (i32.const 3072) (i32.const 0) (i32.const 112))
      (local.set $at (i32.load offset=88 (local.get $params)))
      (local.set $end (i32.add (local.get $at) (i32.load offset=92 (local.get $params))))
      (loop $next
        (if (i32.ge_u (local.get $at) (local.get $end)) (then
          (i32.store8 (i32.const 1024) (i32.const 0))
          (return (i32.const 1024))))
        (local.set $op (i32.load8_u (local.get $at)))
        (local.set $bytes (i32.load8_u offset=1 (local.get $at)))
        (local.set $at (i32.add (local.get $at) (i32.const 2)))
        ;; Where `=` stands in the argument, for `s`.
        (local.set $cut (i32.const 0))
        (block $found (loop $seek
          (br_if $found (i32.ge_u (local.get $cut) (local.get $bytes)))
          (br_if $found (i32.eq (i32.const 61) (i32.load8_u (i32.add (local.get $at) (local.get $cut)))))
          (local.set $cut (i32.add (local.get $cut) (i32.const 1)))
          (br $seek)))

        (if (i32.eq (local.get $op) (i32.const 82)) ;; R: retry
          (then (return (call $fail (i32.const 0) (local.get $at) (local.get $bytes)))))
        (if (i32.eq (local.get $op) (i32.const 74)) ;; J: reject with what was told
          (then (return (call $fail (i32.const 1) (i32.const 32768) (global.get $told)))))
        (if (i32.eq (local.get $op) (i32.const 85)) ;; U: unavailable
          (then (return (call $fail (i32.const 2) (local.get $at) (local.get $bytes)))))
        (if (i32.eq (local.get $op) (i32.const 84)) (then unreachable)) ;; T: trap
        (if (i32.eq (local.get $op) (i32.const 76)) (then (loop $for-ever (br $for-ever)))) ;; L: loop
        (if (i32.eq (local.get $op) (i32.const 88)) ;; X: endless recursion
          (then (drop (call $recurse-for-ever (i32.const 0)))))
        (if (i32.eq (local.get $op) (i32.const 77)) ;; M: all memory, then what an allocator does
          (then (call $take-all-memory) unreachable))
        (if (i32.eq (local.get $op) (i32.const 78)) (then (call $take-all-memory))) ;; N: all memory, and go on
        (if (i32.eq (local.get $op) (i32.const 69)) (then (call $exit (i32.const 1)))) ;; E: exit
        (if (i32.eq (local.get $op) (i32.const 90)) ;; Z: sleep a year
          (then (call $block (call $after (i64.const 31536000000000000)))))
        (if (i32.eq (local.get $op) (i32.const 122)) ;; z: sleep a millisecond
          (then (call $block (call $after (i64.const 1000000)))))
        (if (i32.eq (local.get $op) (i32.const 112)) ;; p: publish to a topic
          (then (call $publish-one (local.get $at) (local.get $bytes)) (call $tell-error)))
        (if (i32.eq (local.get $op) (i32.const 80)) ;; P: publish until that is refused
          (then
            (loop $more
              (call $publish-one (local.get $at) (local.get $bytes))
              (br_if $more (i32.eqz (i32.load8_u (i32.const 2048)))))
            (call $tell-error)))
        (if (i32.eq (local.get $op) (i32.const 68)) ;; D: from here on, publish for too late
          (then (i32.store8 (i32.const 3152) (i32.const 1)) (i64.store (i32.const 3160) (i64.const 99700000000000))))
        (if (i32.eq (local.get $op) (i32.const 120)) ;; x: from here on, publish what expires
          (then (i32.store8 (i32.const 3168) (i32.const 1)) (i64.store (i32.const 3176) (i64.const 1700000000000))))
        (if (i32.eq (local.get $op) (i32.const 103)) (then ;; g: get
          (call $get (local.get $at) (local.get $bytes) (i32.const 2048))
          (if (i32.load8_u (i32.const 2048)) (then (call $tell-error)) (else
            (if (i32.load8_u (i32.const 2052))
              (then (call $tell (i32.load (i32.const 2056)) (i32.load (i32.const 2060))))
              (else (call $tell-byte (i32.const 45))))))
          (call $tell-byte (i32.const 59))))
        (if (i32.eq (local.get $op) (i32.const 71)) (then ;; G: get the same until that is refused
          (loop $more
            (call $get (local.get $at) (local.get $bytes) (i32.const 2048))
            (br_if $more (i32.eqz (i32.load8_u (i32.const 2048)))))
          (call $tell-error)))
        (if (i32.eq (local.get $op) (i32.const 115)) (then ;; s: set, as key=value
          (call $set (local.get $at) (local.get $cut)
            (i32.add (i32.add (local.get $at) (local.get $cut)) (i32.const 1))
            (i32.sub (i32.sub (local.get $bytes) (local.get $cut)) (i32.const 1))
            (i32.const 2048))
          (call $tell-error)))
        (if (i32.eq (local.get $op) (i32.const 100)) (then ;; d: delete
          (call $delete (local.get $at) (local.get $bytes) (i32.const 2048))
          (call $tell-error)))
        (if (i32.eq (local.get $op) (i32.const 99)) (then ;; c: scan a prefix
          (call $scan (local.get $at) (local.get $bytes) (i32.const 0) (i32.const 0) (i32.const 0)
            (i32.const 100) (i32.const 2048))
          (if (i32.load8_u (i32.const 2048)) (then (call $tell-error)) (else
            (local.set $count (i32.const 0))
            (block $done (loop $more
              (br_if $done (i32.ge_u (local.get $count) (i32.load (i32.const 2056))))
              (local.set $cut (i32.add (i32.load (i32.const 2052)) (i32.shl (local.get $count) (i32.const 4))))
              (call $tell (i32.load (local.get $cut)) (i32.load offset=4 (local.get $cut)))
              (call $tell-byte (i32.const 61))
              (call $tell (i32.load offset=8 (local.get $cut)) (i32.load offset=12 (local.get $cut)))
              (call $tell-byte (i32.const 44))
              (local.set $count (i32.add (local.get $count) (i32.const 1)))
              (br $more)))))))
        (if (i32.eq (local.get $op) (i32.const 107)) (then ;; k: a value of the configuration
          (call $config (local.get $at) (local.get $bytes) (i32.const 2048))
          (if (i32.load8_u (i32.const 2048))
            (then (call $tell (i32.load (i32.const 2052)) (i32.load (i32.const 2056))))
            (else (call $tell-byte (i32.const 45))))
          (call $tell-byte (i32.const 59))))
        (if (i32.eq (local.get $op) (i32.const 119)) ;; w: a line to the log
          (then (call $log (i32.const 2) (local.get $at) (local.get $bytes))))
        (if (i32.eq (local.get $op) (i32.const 87)) (then ;; W: the line ten thousand times
          (local.set $count (i32.const 10000))
          (loop $more
            (call $log (i32.const 2) (local.get $at) (local.get $bytes))
            (br_if $more (local.tee $count (i32.sub (local.get $count) (i32.const 1)))))))
        (if (i32.eq (local.get $op) (i32.const 111)) ;; o: print to stderr
          (then (call $print (call $stderr) (local.get $at) (local.get $bytes) (i32.const 2048))))
        (if (i32.eq (local.get $op) (i32.const 79)) (then ;; O: print ten thousand times
          (local.set $cut (call $stderr))
          (local.set $count (i32.const 10000))
          (loop $more
            (call $print (local.get $cut) (local.get $at) (local.get $bytes) (i32.const 2048))
            (br_if $more (local.tee $count (i32.sub (local.get $count) (i32.const 1)))))))
        (if (i32.eq (local.get $op) (i32.const 104)) (then ;; h: open streams without end
          (loop $more (drop (call $stderr)) (br $more))))

        (local.set $at (i32.add (local.get $at) (local.get $bytes)))
        (br $next))
      unreachable))
  (core instance $main (instantiate $main
    (with "libc" (instance $libc))
    (with "host" (instance
      (export "publish" (func $publish)) (export "get" (func $get)) (export "set" (func $set))
      (export "delete" (func $delete)) (export "scan" (func $scan)) (export "config" (func $config))
      (export "log" (func $log)) (export "block" (func $block)) (export "stderr" (func $stderr))
      (export "print" (func $print)) (export "after" (func $after)) (export "exit" (func $exit))))))

  (func (export "handle") (param "message" $message) (param "delivery" $delivery) (result (result (error $failure)))
    (canon lift (core func $main "handle") (memory $memory) (realloc $realloc)
      (post-return (core func $libc "reset")))))
