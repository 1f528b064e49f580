;; `wasi_snapshot_preview1` for a guest that has clocks, random numbers, its standard streams, arguments, variables
;; and nothing else: no file can be opened, and no socket is there.
;;
;; It keeps no state and allocates nothing, and so it can be called at any moment: while a guest sets itself up, inside
;; its allocator, and after it gave its memory back. What the bus returns as a list lands where the guest asked for it:
;; `cabi_import_realloc` answers with that place, and what describes the list is put over the guest's own iovec, which
;; has the same form and is restored afterwards.
;;
;; Structs and numbers are those of the preview1 witx. Errors: 8 badf, 28 inval, 52 nosys, 70 spipe, 76 notcapable.
(module
  (import "sandpost:shim/host" "print" (func $print (param i32 i32 i32)))
  (import "sandpost:shim/host" "read" (func $read (param i32 i32)))
  (import "sandpost:shim/host" "args-size" (func $args_size (result i64)))
  (import "sandpost:shim/host" "environ-size" (func $environ_size (result i64)))
  (import "sandpost:shim/host" "args-word" (func $args_word (param i32) (result i64)))
  (import "sandpost:shim/host" "environ-word" (func $environ_word (param i32) (result i64)))
  (import "sandpost:shim/host" "clock" (func $clock (param i32) (result i64)))
  (import "sandpost:shim/host" "random" (func $random (result i64)))
  (import "sandpost:shim/host" "sleep" (func $sleep (param i64)))
  (import "sandpost:shim/host" "exit" (func $exit (param i32)))
  (import "env" "memory" (memory 0))
  ;;@command (import "__main_module__" "_start" (func $start))
  ;;@command (func (export "run") (call $start))

  ;; Where the list that is being returned shall lie. Set before, and read within, one call of $read.
  (global $destination (mut i32) (i32.const 0))
  (func (export "cabi_import_realloc") (param i32 i32 i32 i32) (result i32)
    (global.get $destination))

  ;; Streams

  (func (export "fd_write") (param $fd i32) (param $iovs i32) (param $count i32) (param $written i32) (result i32)
    (local $total i32)
    (if (i32.gt_u (i32.sub (local.get $fd) (i32.const 1)) (i32.const 1))
      (then (return (i32.const 8))))
    (block $done
      (loop $next
        (br_if $done (i32.eqz (local.get $count)))
        (call $print (local.get $fd) (i32.load (local.get $iovs)) (i32.load offset=4 (local.get $iovs)))
        (local.set $total (i32.add (local.get $total) (i32.load offset=4 (local.get $iovs))))
        (local.set $iovs (i32.add (local.get $iovs) (i32.const 8)))
        (local.set $count (i32.sub (local.get $count) (i32.const 1)))
        (br $next)))
    (i32.store (local.get $written) (local.get $total))
    (i32.const 0))

  (func (export "fd_read") (param $fd i32) (param $iovs i32) (param $count i32) (param $read i32) (result i32)
    (local $total i32) (local $wanted i32) (local $got i32)
    (if (local.get $fd) (then (return (i32.const 8))))
    (block $done
      (loop $next
        (br_if $done (i32.eqz (local.get $count)))
        (global.set $destination (i32.load (local.get $iovs)))
        (local.set $wanted (i32.load offset=4 (local.get $iovs)))
        (call $read (local.get $wanted) (local.get $iovs))
        (local.set $got (i32.load offset=4 (local.get $iovs)))
        (i32.store (local.get $iovs) (global.get $destination))
        (i32.store offset=4 (local.get $iovs) (local.get $wanted))
        (local.set $total (i32.add (local.get $total) (local.get $got)))
        (br_if $done (i32.lt_u (local.get $got) (local.get $wanted)))
        (local.set $iovs (i32.add (local.get $iovs) (i32.const 8)))
        (local.set $count (i32.sub (local.get $count) (i32.const 1)))
        (br $next)))
    (i32.store (local.get $read) (local.get $total))
    (i32.const 0))

  ;; fdstat: filetype u8 (2: a character device), flags u16 at 2, rights u64 at 8 and 16.
  (func (export "fd_fdstat_get") (param $fd i32) (param $stat i32) (result i32)
    (if (i32.gt_u (local.get $fd) (i32.const 2)) (then (return (i32.const 8))))
    (i64.store (local.get $stat) (i64.const 2))
    ;; 2: fd_read, 64: fd_write
    (i64.store offset=8 (local.get $stat) (select (i64.const 64) (i64.const 2) (local.get $fd)))
    (i64.store offset=16 (local.get $stat) (i64.const 0))
    (i32.const 0))

  ;; filestat, 64 bytes: device, inode, filetype u8 at 16, links, size, three times.
  (func (export "fd_filestat_get") (param $fd i32) (param $stat i32) (result i32)
    (if (i32.gt_u (local.get $fd) (i32.const 2)) (then (return (i32.const 8))))
    (memory.fill (local.get $stat) (i32.const 0) (i32.const 64))
    (i32.store8 offset=16 (local.get $stat) (i32.const 2))
    (i32.const 0))

  ;; Whoever closes a standard stream means to flush it, and everything is flushed.
  (func (export "fd_close") (param $fd i32) (result i32) (call $standard (local.get $fd)))
  (func (export "fd_datasync") (param $fd i32) (result i32) (call $standard (local.get $fd)))
  (func (export "fd_sync") (param $fd i32) (result i32) (call $standard (local.get $fd)))
  (func (export "fd_fdstat_set_flags") (param $fd i32) (param i32) (result i32) (call $standard (local.get $fd)))
  (func $standard (param $fd i32) (result i32)
    (select (i32.const 8) (i32.const 0) (i32.gt_u (local.get $fd) (i32.const 2))))

  ;; The standard streams cannot be moved in.
  (func (export "fd_seek") (param $fd i32) (param i64 i32 i32) (result i32) (call $stream (local.get $fd)))
  (func (export "fd_tell") (param $fd i32) (param i32) (result i32) (call $stream (local.get $fd)))
  (func $stream (param $fd i32) (result i32)
    (select (i32.const 8) (i32.const 70) (i32.gt_u (local.get $fd) (i32.const 2))))

  ;; Arguments and variables

  (func (export "args_sizes_get") (param $count i32) (param $bytes i32) (result i32)
    (call $sizes (call $args_size) (local.get $count) (local.get $bytes)))
  (func (export "environ_sizes_get") (param $count i32) (param $bytes i32) (result i32)
    (call $sizes (call $environ_size) (local.get $count) (local.get $bytes)))
  (func $sizes (param $size i64) (param $count i32) (param $bytes i32) (result i32)
    (i32.store (local.get $count) (i32.wrap_i64 (i64.shr_u (local.get $size) (i64.const 32))))
    (i32.store (local.get $bytes) (i32.wrap_i64 (local.get $size)))
    (i32.const 0))

  (func (export "args_get") (param $pointers i32) (param $texts i32) (result i32)
    (call $list (i32.const 0) (call $args_size) (local.get $pointers) (local.get $texts)))
  (func (export "environ_get") (param $pointers i32) (param $texts i32) (result i32)
    (call $list (i32.const 1) (call $environ_size) (local.get $pointers) (local.get $texts)))
  ;; Copies texts that end in NUL, and writes where each begins.
  (func $list (param $environ i32) (param $size i64) (param $pointers i32) (param $texts i32) (result i32)
    (local $at i32) (local $bytes i32) (local $word i64) (local $begins i32)
    (local.set $bytes (i32.wrap_i64 (local.get $size)))
    (local.set $begins (i32.const 1))
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $at) (local.get $bytes)))
        (if (i32.eqz (i32.and (local.get $at) (i32.const 7)))
          (then
            (if (local.get $environ)
              (then (local.set $word (call $environ_word (local.get $at))))
              (else (local.set $word (call $args_word (local.get $at)))))))
        (if (local.get $begins)
          (then
            (i32.store (local.get $pointers) (i32.add (local.get $texts) (local.get $at)))
            (local.set $pointers (i32.add (local.get $pointers) (i32.const 4)))))
        (i64.store8 (i32.add (local.get $texts) (local.get $at)) (local.get $word))
        (local.set $begins (i64.eqz (i64.and (local.get $word) (i64.const 255))))
        (local.set $word (i64.shr_u (local.get $word) (i64.const 8)))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (br $next)))
    (i32.const 0))

  ;; Clocks, random numbers, the end

  (func (export "clock_res_get") (param $id i32) (param $resolution i32) (result i32)
    (if (i32.gt_u (local.get $id) (i32.const 3)) (then (return (i32.const 28))))
    (i64.store (local.get $resolution) (i64.const 1))
    (i32.const 0))
  (func (export "clock_time_get") (param $id i32) (param i64) (param $time i32) (result i32)
    (if (i32.gt_u (local.get $id) (i32.const 3)) (then (return (i32.const 28))))
    (i64.store (local.get $time) (call $clock (local.get $id)))
    (i32.const 0))

  (func (export "random_get") (param $at i32) (param $bytes i32) (result i32)
    (local $word i64)
    (block $done
      (loop $words
        (br_if $done (i32.lt_u (local.get $bytes) (i32.const 8)))
        (i64.store (local.get $at) (call $random))
        (local.set $at (i32.add (local.get $at) (i32.const 8)))
        (local.set $bytes (i32.sub (local.get $bytes) (i32.const 8)))
        (br $words)))
    (local.set $word (call $random))
    (block $filled
      (loop $rest
        (br_if $filled (i32.eqz (local.get $bytes)))
        (i64.store8 (local.get $at) (local.get $word))
        (local.set $word (i64.shr_u (local.get $word) (i64.const 8)))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (local.set $bytes (i32.sub (local.get $bytes) (i32.const 1)))
        (br $rest)))
    (i32.const 0))

  (func (export "proc_exit") (param $code i32)
    (call $exit (local.get $code))
    unreachable)
  (func (export "sched_yield") (result i32) (i32.const 0))

  ;; subscription, 48 bytes: userdata u64, tag u8 at 8 (0 clock, 1 read, 2 write); of a clock: id u32 at 16, timeout u64
  ;; at 24, flags u16 at 40 (1: a point in time). event, 32 bytes: userdata u64, error u16 at 8, tag u8 at 10, bytes u64
  ;; at 16. Streams are ready at once; else the call sleeps until the first clock is due.
  (func (export "poll_oneoff") (param $in i32) (param $out i32) (param $count i32) (param $events i32) (result i32)
    (local $at i32) (local $index i32) (local $ready i32) (local $wait i64) (local $least i64)
    (if (i32.eqz (local.get $count)) (then (return (i32.const 28))))
    (local.set $least (i64.const -1))
    (block $seen
      (loop $next
        (br_if $seen (i32.ge_u (local.get $index) (local.get $count)))
        (local.set $at (i32.add (local.get $in) (i32.mul (local.get $index) (i32.const 48))))
        (if (i32.load8_u offset=8 (local.get $at))
          (then (local.set $least (i64.const 0)))
          (else
            (local.set $wait (call $remaining (local.get $at)))
            (if (i64.lt_u (local.get $wait) (local.get $least))
              (then (local.set $least (local.get $wait))))))
        (local.set $index (i32.add (local.get $index) (i32.const 1)))
        (br $next)))
    ;; Which clocks are due is decided before the sleep, for a time of waiting counts from the call.
    (local.set $index (i32.const 0))
    (block $written
      (loop $next
        (br_if $written (i32.ge_u (local.get $index) (local.get $count)))
        (local.set $at (i32.add (local.get $in) (i32.mul (local.get $index) (i32.const 48))))
        (if (i32.or
              (i32.ne (i32.load8_u offset=8 (local.get $at)) (i32.const 0))
              (i64.le_u (call $remaining (local.get $at)) (local.get $least)))
          (then
            (i64.store (local.get $out) (i64.load (local.get $at)))
            (i64.store offset=8 (local.get $out)
              (i64.shl (i64.load8_u offset=8 (local.get $at)) (i64.const 16)))
            (i64.store offset=16 (local.get $out) (i64.const 0))
            (i64.store offset=24 (local.get $out) (i64.const 0))
            (local.set $out (i32.add (local.get $out) (i32.const 32)))
            (local.set $ready (i32.add (local.get $ready) (i32.const 1)))))
        (local.set $index (i32.add (local.get $index) (i32.const 1)))
        (br $next)))
    (if (i64.ne (local.get $least) (i64.const 0)) (then (call $sleep (local.get $least))))
    (i32.store (local.get $events) (local.get $ready))
    (i32.const 0))
  ;; Nanoseconds until the clock of a subscription is due.
  (func $remaining (param $subscription i32) (result i64)
    (local $due i64) (local $now i64)
    (local.set $due (i64.load offset=24 (local.get $subscription)))
    (if (i32.eqz (i32.and (i32.load16_u offset=40 (local.get $subscription)) (i32.const 1)))
      (then (return (local.get $due))))
    (local.set $now (call $clock (i32.load offset=16 (local.get $subscription))))
    (if (i64.ge_u (local.get $now) (local.get $due)) (then (return (i64.const 0))))
    (i64.sub (local.get $due) (local.get $now)))

  ;; What there is nothing behind

  (func (export "fd_advise") (param i32 i64 i64 i32) (result i32) (i32.const 8))
  (func (export "fd_allocate") (param i32 i64 i64) (result i32) (i32.const 8))
  (func (export "fd_fdstat_set_rights") (param i32 i64 i64) (result i32) (i32.const 8))
  (func (export "fd_filestat_set_size") (param i32 i64) (result i32) (i32.const 8))
  (func (export "fd_filestat_set_times") (param i32 i64 i64 i32) (result i32) (i32.const 8))
  (func (export "fd_pread") (param i32 i32 i32 i64 i32) (result i32) (i32.const 8))
  ;; It ends the search for folders that are there from the beginning.
  (func (export "fd_prestat_get") (param i32 i32) (result i32) (i32.const 8))
  (func (export "fd_prestat_dir_name") (param i32 i32 i32) (result i32) (i32.const 8))
  (func (export "fd_pwrite") (param i32 i32 i32 i64 i32) (result i32) (i32.const 8))
  (func (export "fd_readdir") (param i32 i32 i32 i64 i32) (result i32) (i32.const 8))
  (func (export "fd_renumber") (param i32 i32) (result i32) (i32.const 8))
  (func (export "path_create_directory") (param i32 i32 i32) (result i32) (i32.const 8))
  (func (export "path_filestat_get") (param i32 i32 i32 i32 i32) (result i32) (i32.const 8))
  (func (export "path_filestat_set_times") (param i32 i32 i32 i32 i64 i64 i32) (result i32) (i32.const 8))
  (func (export "path_link") (param i32 i32 i32 i32 i32 i32 i32) (result i32) (i32.const 8))
  (func (export "path_open") (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32) (i32.const 8))
  (func (export "path_readlink") (param i32 i32 i32 i32 i32 i32) (result i32) (i32.const 8))
  (func (export "path_remove_directory") (param i32 i32 i32) (result i32) (i32.const 8))
  (func (export "path_rename") (param i32 i32 i32 i32 i32 i32) (result i32) (i32.const 8))
  (func (export "path_symlink") (param i32 i32 i32 i32 i32) (result i32) (i32.const 8))
  (func (export "path_unlink_file") (param i32 i32 i32) (result i32) (i32.const 8))
  (func (export "proc_raise") (param i32) (result i32) (i32.const 52))
  (func (export "sock_accept") (param i32 i32 i32) (result i32) (i32.const 8))
  (func (export "sock_recv") (param i32 i32 i32 i32 i32 i32) (result i32) (i32.const 8))
  (func (export "sock_send") (param i32 i32 i32 i32 i32) (result i32) (i32.const 8))
  (func (export "sock_shutdown") (param i32 i32) (result i32) (i32.const 8)))
