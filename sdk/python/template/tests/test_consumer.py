import unittest

from sandpost import Reject
from sandpost.testing import TestBus, message

from handler import handle


class Orders(unittest.TestCase):
    def test_orders_add_up(self) -> None:
        bus = TestBus(publish=["invoice.due"])
        for order_id, cents in (("o-1", 2598), ("o-2", 402)):
            bus.deliver(handle, message("order.placed", {"id": order_id, "customer": "ada", "total_cents": cents}))
        self.assertEqual(bus.published[1].json(), {"order": "o-2", "customer": "ada", "total_cents": 3000})
        self.assertEqual(bus.state["total/ada"], b"3000")

    def test_what_is_no_order_is_rejected(self) -> None:
        with self.assertRaises(Reject):
            TestBus().deliver(handle, message("order.placed", {"id": "o-1"}))


if __name__ == "__main__":
    unittest.main()
