import time


def test_both_servers_answer(host, probe):
    assert host("rs1").socket("tcp://80").is_listening
    with probe() as seen:
        time.sleep(1)
    assert set(seen.servers) == {"rs1", "rs2"} and not seen.lost


def test_one_server_goes_on_without_the_other(faults, probe):
    with probe() as seen, faults.stop("rs1", "httpd"):
        time.sleep(3)
    assert seen.servers["rs2"] > seen.servers["rs1"] and seen.gap < 2
