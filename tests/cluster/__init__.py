"""Tests of tables on a cluster, against real Ray on this machine."""
